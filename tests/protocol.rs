//! The protocol read as tables: a request in, the settings or the exact error text out.

use triton_llm::protocol::ParamValue::{Bool as B, Double as D, Int as I, String as Str};
use triton_llm::protocol::{
    GenerateRequest, ParamValue, Prompt, RawRequest, RequestDefaults, RequestLimits, Role,
    defaults, parse,
};

const LIMITS: RequestLimits = RequestLimits {
    n_ctx: 4096,
    max_prompt_bytes: 1 << 20,
};

fn s(text: &str) -> ParamValue {
    Str(text.to_owned())
}

fn bytes(text: &str) -> Option<Vec<Vec<u8>>> {
    Some(vec![text.as_bytes().to_vec()])
}

fn hello() -> RawRequest {
    RawRequest {
        text_input: bytes("hello"),
        ..RawRequest::default()
    }
}

fn with(parameters: &[(&str, ParamValue)]) -> RawRequest {
    RawRequest {
        parameters: parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
        ..hello()
    }
}

fn with_json(json: &str) -> RawRequest {
    RawRequest {
        sampling_parameters: bytes(json),
        ..hello()
    }
}

fn read(raw: RawRequest) -> Result<GenerateRequest, String> {
    parse(raw, &RequestDefaults::default(), &LIMITS, true).map_err(|error| error.to_string())
}

/// The value that a request ended up with for one parameter.
fn setting(request: &GenerateRequest, name: &str) -> String {
    let sampling = &request.sampling;
    match name {
        "max_tokens" => format!("{:?}", request.max_tokens),
        "temperature" => sampling.temperature.to_string(),
        "top_k" => sampling.top_k.to_string(),
        "top_p" => sampling.top_p.to_string(),
        "min_p" => sampling.min_p.to_string(),
        "typical_p" => sampling.typical_p.to_string(),
        "xtc_probability" => sampling.xtc_probability.to_string(),
        "xtc_threshold" => sampling.xtc_threshold.to_string(),
        "mirostat" => format!("{:?}", sampling.mirostat),
        "mirostat_tau" => sampling.mirostat_tau.to_string(),
        "mirostat_eta" => sampling.mirostat_eta.to_string(),
        "dry_multiplier" => sampling.dry.multiplier.to_string(),
        "dry_base" => sampling.dry.base.to_string(),
        "dry_allowed_length" => sampling.dry.allowed_length.to_string(),
        "dry_penalty_last_n" => sampling.dry.penalty_last_n.to_string(),
        "dry_sequence_breakers" => format!("{:?}", sampling.dry.sequence_breakers),
        "repetition_penalty" => sampling.repetition_penalty.to_string(),
        "presence_penalty" => sampling.presence_penalty.to_string(),
        "frequency_penalty" => sampling.frequency_penalty.to_string(),
        "seed" => format!("{:?}", sampling.seed),
        "stop" => format!("{:?}", request.stop),
        "ignore_eos" => sampling.ignore_eos.to_string(),
        "min_tokens" => sampling.min_tokens.to_string(),
        "streaming" => request.streaming.to_string(),
        other => panic!("no such parameter in the test: {other}"),
    }
}

/// What a parameter does with a value: its setting, or its error after "!".
fn outcome(name: &str, as_called: &str, value: ParamValue) -> String {
    match read(with(&[(as_called, value)])) {
        Ok(request) => setting(&request, name),
        Err(error) => format!("!{error}"),
    }
}

fn refused(name: &str, shown: &str, expected: &str) -> String {
    format!("!parameter '{name}' = {shown}: must be {expected}")
}

#[test]
fn numbers_take_every_kind_and_both_ends() {
    // name, range in words, lowest and highest accepted, just outside
    let rows = [
        (
            "temperature",
            "between 0 and 100",
            (0.0, 100.0),
            [-0.1, 100.1],
        ),
        ("top_p", "between 0 and 1", (1e-3, 1.0), [-0.1, 1.1]),
        ("min_p", "between 0 and 1", (0.0, 1.0), [-0.1, 1.1]),
        (
            "typical_p",
            "above 0 and at most 1",
            (1e-3, 1.0),
            [0.0, 1.1],
        ),
        (
            "xtc_probability",
            "between 0 and 1",
            (0.0, 1.0),
            [-0.1, 1.1],
        ),
        ("xtc_threshold", "between 0 and 1", (0.0, 1.0), [-0.1, 1.1]),
        (
            "mirostat_tau",
            "between 0 and 100",
            (0.0, 100.0),
            [-0.1, 100.1],
        ),
        ("mirostat_eta", "between 0 and 1", (0.0, 1.0), [-0.1, 1.1]),
        (
            "dry_multiplier",
            "between 0 and 100",
            (0.0, 100.0),
            [-0.1, 100.1],
        ),
        (
            "repetition_penalty",
            "between 0.01 and 10",
            (0.01, 10.0),
            [0.0, 10.1],
        ),
        (
            "presence_penalty",
            "between -2 and 2",
            (-2.0, 2.0),
            [-2.1, 2.1],
        ),
        (
            "frequency_penalty",
            "between -2 and 2",
            (-2.0, 2.0),
            [-2.1, 2.1],
        ),
    ];
    for (name, range, (min, max), outside) in rows {
        for value in [min, max, 0.5] {
            assert_eq!(outcome(name, name, D(value)), value.to_string(), "{name}");
            let text = format!(" {value} ");
            assert_eq!(outcome(name, name, Str(text)), value.to_string(), "{name}");
        }
        assert_eq!(outcome(name, name, I(1)), "1", "{name}");
        let outside = outside.map(|value| (D(value), format!("{value:?}")));
        let others = [
            (D(f64::NAN), "NaN".to_owned()),
            (D(f64::INFINITY), "inf".to_owned()),
            (D(-1e300), "-1e300".to_owned()),
            (I(i64::MIN), i64::MIN.to_string()),
            (s("nan"), "\"nan\"".to_owned()),
            (s("-Infinity"), "\"-Infinity\"".to_owned()),
        ];
        for (value, shown) in outside.into_iter().chain(others) {
            assert_eq!(outcome(name, name, value), refused(name, &shown, range));
        }
        let typed = format!("a number {range}");
        for (value, shown) in [(B(true), "true"), (s("hot"), "\"hot\""), (s(""), "\"\"")] {
            assert_eq!(outcome(name, name, value), refused(name, shown, &typed));
        }
    }
    // Values that a float or a division by it would turn into 0 or infinity.
    assert_eq!(outcome("temperature", "temperature", D(1e-30)), "0.01");
    let likeliest = f32::MIN_POSITIVE.to_string();
    for nothing in [I(0), D(0.0), D(1e-300), s("0")] {
        assert_eq!(outcome("top_p", "top_p", nothing), likeliest);
    }
    assert_ne!(outcome("typical_p", "typical_p", D(1e-300)), "0");
}

#[test]
fn mirostat_and_dry_take_what_llama_cpp_takes() {
    let breakers = "at most 16 non-empty strings of at most 40 bytes each, without NUL";
    let name = "dry_sequence_breakers";
    for (name, value, expected) in [
        ("mirostat", I(0), "Off".to_owned()),
        ("mirostat", I(1), "V1".to_owned()),
        ("mirostat", s("2"), "V2".to_owned()),
        (
            "mirostat",
            I(3),
            refused("mirostat", "3", "between 0 and 2"),
        ),
        (
            "mirostat",
            I(-1),
            refused("mirostat", "-1", "between 0 and 2"),
        ),
        ("dry_base", D(1.0), "1".to_owned()),
        ("dry_base", D(100.0), "100".to_owned()),
        (
            "dry_base",
            D(0.9),
            refused("dry_base", "0.9", "between 1 and 100"),
        ),
        ("dry_allowed_length", I(1), "1".to_owned()),
        ("dry_allowed_length", I(4096), "4096".to_owned()),
        (
            "dry_allowed_length",
            I(0),
            refused("dry_allowed_length", "0", "between 1 and 4096"),
        ),
        ("dry_penalty_last_n", I(0), "0".to_owned()),
        (
            "dry_penalty_last_n",
            I(-1),
            refused("dry_penalty_last_n", "-1", "between 0 and 4096"),
        ),
        (
            "dry_penalty_last_n",
            I(4097),
            refused("dry_penalty_last_n", "4097", "between 0 and 4096"),
        ),
        (name, s("x"), r#"["x"]"#.to_owned()),
        (name, s("[]"), "[]".to_owned()),
        (name, s(r#"["\n", "é"]"#), r#"["\n", "é"]"#.to_owned()),
        (name, s(""), "[]".to_owned()),
        (name, s(r#"["a", ""]"#), refused(name, r#""""#, breakers)),
        (name, s("a\0"), refused(name, r#""a\0""#, breakers)),
        (
            name,
            s(&"é".repeat(21)),
            refused(name, "a string of 42 bytes", breakers),
        ),
        (
            name,
            s(&format!("{:?}", ["x"; 17])),
            refused(name, "a list of 17 strings", breakers),
        ),
        (name, I(5), refused(name, "5", breakers)),
    ] {
        assert_eq!(outcome(name, name, value), expected);
    }
}

#[test]
fn whole_numbers_take_every_kind_and_both_ends() {
    // name, range, accepted values with their settings, just outside
    let k = "between 0 and 2147483647, or -1 (off)";
    let seed = "between 0 and 18446744073709551615, or -1 (random)";
    let tokens = "between 1 and 4096, or -1 (no limit)";
    let rows = [
        (
            "max_tokens",
            tokens,
            vec![(-1, "None"), (1, "Some(1)"), (4096, "Some(4096)")],
            vec![-2, 0, 4097, i64::MAX],
        ),
        (
            "min_tokens",
            "between 0 and 4096",
            vec![(0, "0"), (4096, "4096")],
            vec![-1, 4097, i64::MIN],
        ),
        (
            "top_k",
            k,
            vec![(-1, "0"), (0, "0"), (40, "40"), (2147483647, "2147483647")],
            vec![-2, 2147483648],
        ),
        (
            "seed",
            seed,
            vec![(-1, "None"), (0, "Some(0)"), (7, "Some(7)")],
            vec![-2, i64::MIN],
        ),
    ];
    for (name, range, inside, outside) in rows {
        for (value, expected) in inside {
            for value in [
                I(value),
                D(value as f64),
                s(&value.to_string()),
                s(&format!("{value}.0")),
            ] {
                assert_eq!(
                    outcome(name, name, value.clone()),
                    expected,
                    "{name} = {value:?}"
                );
            }
        }
        for value in outside {
            let shown = value.to_string();
            assert_eq!(outcome(name, name, I(value)), refused(name, &shown, range));
            let quoted = format!("\"{shown}\"");
            assert_eq!(
                outcome(name, name, s(&shown)),
                refused(name, &quoted, range)
            );
        }
        assert_eq!(outcome(name, name, D(1e300)), refused(name, "1e300", range));
        let typed = format!("a whole number {range}");
        for (value, shown) in [
            (D(1.5), "1.5"),
            (D(f64::NAN), "NaN"),
            (D(f64::INFINITY), "inf"),
            (B(false), "false"),
            (s("many"), "\"many\""),
            (s("1.5"), "\"1.5\""),
            (s(""), "\"\""),
        ] {
            assert_eq!(outcome(name, name, value), refused(name, shown, &typed));
        }
    }
    let large = 2f64.powi(53);
    assert_eq!(outcome("seed", "seed", D(large)), format!("Some({large})"));
    // Those that Triton hands on as doubles, of which several are one.
    for rounded in [large + 2.0, 2f64.powi(63), u64::MAX as f64] {
        let range = format!("{seed}; so large a number arrives rounded, send it as a string");
        assert_eq!(
            outcome("seed", "seed", D(rounded)),
            refused("seed", &format!("{rounded:?}"), &range)
        );
    }
    let largest = u64::MAX.to_string();
    assert_eq!(
        outcome("seed", "seed", s(&largest)),
        format!("Some({largest})")
    );
    let json = with_json(&format!("{{\"seed\":{largest}}}"));
    assert_eq!(read(json).map(|r| r.sampling.seed), Ok(Some(u64::MAX)));
}

#[test]
fn booleans_take_every_kind() {
    for name in ["ignore_eos", "streaming"] {
        for value in [B(true), I(1), s("true"), s("True"), s("1")] {
            assert_eq!(outcome(name, name, value), "true", "{name}");
        }
        for value in [B(false), I(0), s("false"), s(" FALSE "), s("0")] {
            assert_eq!(outcome(name, name, value), "false", "{name}");
        }
        for (value, shown) in [
            (I(2), "2"),
            (I(-1), "-1"),
            (D(1.0), "1.0"),
            (s("yes"), "\"yes\""),
            (s(""), "\"\""),
        ] {
            assert_eq!(
                outcome(name, name, value),
                refused(name, shown, "true or false")
            );
        }
    }
}

#[test]
fn stop_takes_a_string_a_json_list_or_an_input() {
    let range = "at most 32 non-empty strings of at most 1024 bytes each";
    for (value, expected) in [
        ("END", r#"["END"]"#),
        ("\n\n", r#"["\n\n"]"#),
        (r#"["a","b"]"#, r#"["a", "b"]"#),
        ("[]", "[]"),
        ("", "[]"),
        (r#"["", ""]"#, "[]"),
        ("[", r#"["["]"#),
        ("[1]", r#"["[1]"]"#),
        ("[INST]", r#"["[INST]"]"#),
    ] {
        assert_eq!(outcome("stop", "stop", s(value)), expected);
        let input = RawRequest {
            stop: bytes(value),
            ..hello()
        };
        assert_eq!(
            setting(&read(input).expect("is in range"), "stop"),
            expected
        );
    }
    let longest = "é".repeat(512);
    assert_eq!(
        outcome("stop", "stop", s(&longest)),
        format!("{:?}", [&longest])
    );
    let many = |n| serde_json::to_string(&vec!["x"; n]).expect("strings serialise");
    assert_eq!(
        outcome("stop", "stop", s(&many(32))),
        format!("{:?}", vec!["x"; 32])
    );
    for (value, shown) in [
        (s(r#"["a",""]"#), "\"\""),
        (s(&format!("{longest}x")), "a string of 1025 bytes"),
        (s(&many(33)), "a list of 33 strings"),
        (I(1), "1"),
        (B(true), "true"),
        (D(0.5), "0.5"),
    ] {
        assert_eq!(
            outcome("stop", "stop", value),
            refused("stop", shown, range)
        );
    }
    for (json, expected) in [
        (r#"{"stop":"a"}"#, Ok(vec!["a".to_owned()])),
        (
            r#"{"stop":["a","[\"b\"]"]}"#,
            Ok(vec!["a".to_owned(), "[\"b\"]".to_owned()]),
        ),
        (r#"{"stop":null}"#, Ok(vec![])),
        (
            r#"{"stop":[1]}"#,
            Err(format!("parameter 'stop' = a list: must be {range}")),
        ),
        (
            r#"{"stop":{}}"#,
            Err(format!("parameter 'stop' = an object: must be {range}")),
        ),
    ] {
        assert_eq!(
            read(with_json(json)).map(|request| request.stop),
            expected,
            "{json}"
        );
    }
    let several = RawRequest {
        stop: Some(vec![b"a".to_vec(), b"[\"b\"]".to_vec()]),
        ..hello()
    };
    assert_eq!(read(several).map(|r| r.stop.len()), Ok(2));
    let none = RawRequest {
        stop: Some(vec![]),
        ..hello()
    };
    assert_eq!(read(none).map(|r| r.stop), Ok(vec![]));
    let invalid = RawRequest {
        stop: Some(vec![b"ab\xff".to_vec()]),
        ..hello()
    };
    assert_eq!(
        read(invalid).map(|r| r.stop),
        Err("input 'stop' is not UTF-8: invalid byte at offset 2".to_owned())
    );
}

#[test]
fn synonyms_mean_the_same() {
    for (synonym, name) in [
        ("max_completion_tokens", "max_tokens"),
        ("max_new_tokens", "max_tokens"),
        ("n_predict", "max_tokens"),
        ("temp", "temperature"),
        ("typical", "typical_p"),
        ("typ_p", "typical_p"),
        ("repeat_penalty", "repetition_penalty"),
        ("stream", "streaming"),
    ] {
        let expected = match name {
            "max_tokens" => "Some(1)",
            "streaming" => "true",
            _ => "1",
        };
        assert_eq!(outcome(name, synonym, I(1)), expected);
        let error = outcome(name, synonym, s("x"));
        assert!(
            error.starts_with(&format!("!parameter '{synonym}' = \"x\": must be ")),
            "{error}"
        );
        // Which wins instead, see `what_clients_send_is_taken`.
        if synonym != "max_completion_tokens" {
            assert_eq!(
                read(with(&[(name, I(1)), (synonym, I(1))])).map(|_| ()),
                Err(format!(
                    "parameter '{name}' is given twice, as '{name}' and as '{synonym}'"
                ))
            );
        }
    }
    let twice = Err("parameter 'seed' is given twice".to_owned());
    assert_eq!(
        read(with(&[("seed", I(1)), ("seed", I(2))])).map(|_| ()),
        twice
    );
    assert_eq!(read(with_json(r#"{"seed":1,"seed":2}"#)).map(|_| ()), twice);
}

/// What clients of other servers send, and means nothing here or the same as nothing.
#[test]
fn what_clients_send_is_taken() {
    for (parameter, value) in [
        ("model", s("llm_decoupled")),
        ("n", I(1)),
        ("bad_words", s("")),
        ("bad_words", s("[\"\"]")),
        ("stop_words", s("")),
    ] {
        let request = read(with(&[(parameter, value)]));
        assert_eq!(request, read(hello()), "{parameter}");
    }
    assert_eq!(
        read(with_json(r#"{"bad_words":[""],"stop_words":[""],"n":1}"#)),
        read(hello())
    );
    assert_eq!(
        read(with(&[("n", I(2))])).map(|_| ()),
        Err("parameter 'n' = 2: must be 1".to_owned())
    );
    assert_eq!(
        read(with(&[("bad_words", s("x"))])).map(|_| ()),
        Err("parameter 'bad_words' = a list of 1 strings: must be empty".to_owned())
    );
    // OpenAI's newer name beside the older one, in either order.
    let both = [("max_tokens", I(5)), ("max_completion_tokens", I(7))];
    let [one, other] = both.clone();
    for both in [both, [other, one]] {
        assert_eq!(read(with(&both)).map(|r| r.max_tokens), Ok(Some(7)));
    }
    assert_eq!(
        read(with(&[
            ("max_tokens", I(5)),
            ("max_completion_tokens", I(0))
        ]))
        .map(|_| ()),
        Err(refused(
            "max_completion_tokens",
            "0",
            "between 1 and 4096, or -1 (no limit)"
        )
        .split_off(1))
    );
}

#[test]
fn unknown_names_get_the_nearest_one() {
    let known = "known are max_tokens, temperature, top_k, top_p, min_p, typical_p, \
                 xtc_probability, xtc_threshold, mirostat, mirostat_tau, mirostat_eta, \
                 dry_multiplier, dry_base, dry_allowed_length, dry_penalty_last_n, \
                 dry_sequence_breakers, repetition_penalty, presence_penalty, frequency_penalty, seed, stop, bad_words, n, ignore_eos, \
                 min_tokens, chat_template_kwargs, enable_thinking, streaming, stream_interval";
    let long = "x".repeat(1 << 20);
    let cut = format!("unknown parameter '{}…': {known}", "x".repeat(64));
    for (name, expected) in [
        (
            "temprature",
            "unknown parameter 'temprature': did you mean 'temperature'?",
        ),
        (
            "Temperature",
            "unknown parameter 'Temperature': did you mean 'temperature'?",
        ),
        ("top-p", "unknown parameter 'top-p': did you mean 'top_p'?"),
        (
            "maxTokens",
            "unknown parameter 'maxTokens': did you mean 'max_tokens'?",
        ),
        (
            "repeat_penality",
            "unknown parameter 'repeat_penality': did you mean 'repeat_penalty'?",
        ),
        ("sede", "unknown parameter 'sede': did you mean 'seed'?"),
        (
            "logit_bias",
            &format!("unknown parameter 'logit_bias': {known}"),
        ),
        ("a\nb", &format!("unknown parameter 'a\\nb': {known}")),
        ("", &format!("unknown parameter '': {known}")),
        (&long, &cut),
    ] {
        assert_eq!(
            read(with(&[(name, I(1))])).map(|_| ()),
            Err(expected.to_owned())
        );
        let json = serde_json::json!({ name: 1 }).to_string();
        if json.len() < 65536 {
            assert_eq!(read(with_json(&json)).map(|_| ()), Err(expected.to_owned()));
        }
        let raw = with(&[(name, I(1)), ("seed", I(7))]);
        let lax = parse(raw, &RequestDefaults::default(), &LIMITS, false);
        assert_eq!(lax.expect("unknown names pass").sampling.seed, Some(7));
    }
    let lax = parse(
        with(&[("top_p", I(2))]),
        &RequestDefaults::default(),
        &LIMITS,
        false,
    );
    assert!(
        lax.is_err(),
        "a known name with a bad value is an error all the same"
    );
    for name in [
        "triton_enable_empty_final_response",
        "priority",
        "timeout",
        "sequence_id",
        "sequence_start",
        "sequence_end",
        "id",
    ] {
        assert_eq!(
            read(with(&[(name, s("anything"))])),
            read(hello()),
            "{name}"
        );
    }
}

#[test]
fn the_stronger_source_wins() {
    let defaults = defaults(&[], r#"{"seed":1,"stop":["d"],"max_tokens":4096}"#);
    let defaults = defaults.expect("in range").settings;
    let mut raw = hello();
    let read = |raw: &RawRequest| {
        let r = parse(raw.clone(), &defaults, &LIMITS, true).expect("in range");
        (r.sampling.seed, r.stop.concat(), r.max_tokens)
    };
    assert_eq!(read(&raw), (Some(1), "d".to_owned(), Some(4096)));
    // An input without elements is one that was not sent.
    raw.stop = Some(vec![]);
    assert_eq!(read(&raw), (Some(1), "d".to_owned(), Some(4096)));
    raw.sampling_parameters = bytes(r#"{"seed":2,"stop":"j","max_tokens":20}"#);
    assert_eq!(read(&raw), (Some(2), "j".to_owned(), Some(20)));
    raw.stop = bytes("i");
    assert_eq!(read(&raw), (Some(2), "i".to_owned(), Some(20)));
    raw.parameters = with(&[("seed", I(3)), ("stop", s("p")), ("n_predict", I(-1))]).parameters;
    assert_eq!(read(&raw), (Some(3), "p".to_owned(), None));
}

#[test]
fn variables_of_the_template_are_joined_key_by_key() {
    let defaults = defaults(
        &[],
        r#"{"chat_template_kwargs":{"a":1,"b":1,"enable_thinking":true}}"#,
    );
    let defaults = defaults.expect("in range").settings;
    let mut raw = hello();
    let read = |raw: &RawRequest| {
        let request = parse(raw.clone(), &defaults, &LIMITS, true).expect("in range");
        serde_json::json!(request.template_kwargs).to_string()
    };
    assert_eq!(read(&raw), r#"{"a":1,"b":1,"enable_thinking":true}"#);
    raw.sampling_parameters = bytes(r#"{"chat_template_kwargs":{"b":2,"c":{"d":[null]}}}"#);
    let joined = r#"{"a":1,"b":2,"enable_thinking":true,"c":{"d":[null]}}"#;
    assert_eq!(read(&raw), joined);
    raw.parameters = with(&[
        ("chat_template_kwargs", s(r#"{"a": 3}"#)),
        ("enable_thinking", B(false)),
    ])
    .parameters;
    let joined = r#"{"a":3,"b":2,"enable_thinking":false,"c":{"d":[null]}}"#;
    assert_eq!(read(&raw), joined);
}

#[test]
fn variables_of_the_template_are_an_object_within_limits() {
    let must =
        "must be a JSON object of at most 65536 bytes without the keys messages, tools, documents";
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(64), "]".repeat(64));
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(65_536));
    for (value, shown) in [
        (I(1), "1"),
        (B(true), "true"),
        (s("x"), "\"x\""),
        (s("[]"), "\"[]\""),
        (s("{\"a\":"), "\"{\\\"a\\\":\""),
        (s(r#"{"a":1,"messages":[]}"#), "an object with 'messages'"),
        (s(r#"{"tools":[]}"#), "an object with 'tools'"),
        (s(r#"{"documents":[]}"#), "an object with 'documents'"),
    ] {
        let error = read(with(&[("chat_template_kwargs", value)])).expect_err(shown);
        let expected = format!("parameter 'chat_template_kwargs' = {shown}: {must}");
        assert_eq!(error, expected);
    }
    for text in [deep, long] {
        let error = read(with(&[("chat_template_kwargs", s(&text))])).expect_err("too much");
        assert!(error.ends_with(must) && error.len() < 400, "{error}");
    }
    let in_json = read(with_json(r#"{"chat_template_kwargs":{"tools":null}}"#));
    assert!(in_json.is_err_and(|error| error.contains("an object with 'tools'")));
}

#[test]
fn defaults_fit_the_context() {
    let check = |json: &str, n_ctx| {
        let defaults = defaults(&[], json).expect("in range").settings;
        defaults.check(n_ctx).map_err(|error| error.to_string())
    };
    let refused = |text: &str| Err(format!("config parameter 'sampling_parameters': {text}"));
    for (json, expected) in [
        ("{}", Ok(())),
        (r#"{"max_tokens":64,"min_tokens":64}"#, Ok(())),
        (r#"{"max_tokens":-1}"#, Ok(())),
        (
            r#"{"max_tokens":65}"#,
            refused("'max_tokens' = 65: must be at most n_ctx = 64"),
        ),
        (
            r#"{"min_tokens":65}"#,
            refused("'min_tokens' = 65: must be at most n_ctx = 64"),
        ),
    ] {
        assert_eq!(check(json, 64), expected, "{json}");
    }
}

#[test]
fn min_tokens_stays_within_max_tokens() {
    let both = read(with(&[("min_tokens", I(6)), ("max_tokens", I(5))])).map(|_| ());
    let text = "parameter 'min_tokens' = 6: must be at most 'max_tokens' = 5";
    assert_eq!(both, Err(text.to_owned()));
    assert!(read(with(&[("min_tokens", I(5)), ("max_tokens", I(5))])).is_ok());
    assert!(defaults(&[], r#"{"min_tokens":6,"max_tokens":5}"#).is_err());
    let defaults = defaults(&[], r#"{"min_tokens":6,"max_tokens":8}"#);
    let defaults = defaults.expect("in range").settings;
    for (name, value, expected) in [("max_tokens", 5, (5, 5)), ("min_tokens", 9, (9, 9))] {
        let request = parse(with(&[(name, I(value))]), &defaults, &LIMITS, true).expect("in range");
        assert_eq!(
            (request.sampling.min_tokens, request.max_tokens),
            (expected.0, Some(expected.1))
        );
    }
}

#[test]
fn sampling_json_is_read_or_refused() {
    let deep = format!("{{\"stop\":{}", "[".repeat(60_000));
    let wide = format!("{{\"stop\":\"{}\"}}", "x".repeat(65_536));
    let many: String = (0..65).map(|i| format!("\"k{i}\":1,")).collect();
    for (json, expected) in [
        ("", None),
        ("  ", None),
        ("{}", None),
        (r#"{"seed":null,"triton_x":{"a":[1]}}"#, None),
        ("[1]", Some("'sampling_parameters': must be a JSON object")),
        (
            "\"text\"",
            Some("'sampling_parameters': must be a JSON object"),
        ),
        (
            "{\"seed\":1",
            Some(
                "'sampling_parameters': invalid JSON: EOF while parsing an object at line 1 column 9",
            ),
        ),
        (
            "{} x",
            Some("'sampling_parameters': invalid JSON: trailing characters at line 1 column 4"),
        ),
        (
            "{\"top_p\":1e999}",
            Some("'sampling_parameters': invalid JSON: number out of range at line 1 column 14"),
        ),
        (
            &deep,
            Some("'sampling_parameters': JSON is nested deeper than 64 levels at byte 71"),
        ),
        (
            &wide,
            Some("input 'sampling_parameters' has 65547 bytes: must have at most 65536"),
        ),
        (
            &format!("{{{}}}", many.trim_end_matches(',')),
            Some("'sampling_parameters' has 65 parameters: must have at most 64"),
        ),
    ] {
        let expected = expected.map_or(Ok(()), |text| Err(text.to_owned()));
        assert_eq!(read(with_json(json)).map(|_| ()), expected, "{json:.40}");
    }
    let seed = |raw| read(raw).map(|request| request.sampling.seed);
    let as_input = RawRequest {
        parameters_input: bytes(r#"{"seed":5}"#),
        ..hello()
    };
    assert_eq!(seed(as_input), Ok(Some(5)));
    assert_eq!(
        seed(with(&[("sampling_parameters", s(r#"{"seed":5}"#))])),
        Ok(Some(5))
    );
    for (value, shown) in [(I(5), "5"), (B(true), "true"), (D(0.5), "0.5")] {
        let text = format!(
            "parameter 'sampling_parameters' = {shown}: must be a string with a JSON object"
        );
        assert_eq!(seed(with(&[("sampling_parameters", value)])), Err(text));
    }
    let both = RawRequest {
        parameters_input: bytes("{}"),
        ..with_json("{}")
    };
    let text =
        "'sampling_parameters' and 'parameters' both carry sampling parameters: send them once";
    assert_eq!(seed(both), Err(text.to_owned()));
    let absent = RawRequest {
        sampling_parameters: Some(vec![]),
        ..hello()
    };
    assert_eq!(seed(absent), Ok(None));
    let two = RawRequest {
        sampling_parameters: Some(vec![vec![], vec![]]),
        ..hello()
    };
    let text = "input 'sampling_parameters' has 2 elements: must have 1, one text per request";
    assert_eq!(seed(two), Err(text.to_owned()));
    let parameters = (0..65).map(|i| (format!("triton_{i}"), I(0))).collect();
    let crowd = RawRequest {
        parameters,
        ..hello()
    };
    let text = "the request has 65 parameters: must have at most 64";
    assert_eq!(seed(crowd), Err(text.to_owned()));
}

#[test]
fn the_seeds_own_request() {
    let raw = RawRequest {
        text_input: bytes(r#"[{"role":"user","content":"Say hello"}]"#),
        parameters: vec![("streaming".to_owned(), B(true))],
        ..RawRequest::default()
    };
    let request = read(raw).expect("the seed's request is valid");
    let Prompt::Messages(messages) = &request.prompt;
    assert_eq!(messages.len(), 1);
    assert_eq!(
        (messages[0].role, messages[0].content.text().as_ref()),
        (Role::User, "Say hello")
    );
    assert!(request.streaming);
    assert_eq!((request.max_tokens, request.stop.len()), (None, 0));
}
