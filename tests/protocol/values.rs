//! Each parameter's values: every kind that Triton can send, both ends of its range, and just outside.

use triton_llm::table::Given::{Flag as B, Number as D, Text as Str, Whole as I};

use crate::requests::RawRequest;
use crate::{bytes, hello, outcome, read, refused, s, setting, with, with_json};

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
            (I(i64::MIN.into()), i64::MIN.to_string()),
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
            assert_eq!(
                outcome(name, name, I(value.into())),
                refused(name, &shown, range)
            );
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
    assert_eq!(
        read(json).map(|r| r.settings.sampling.seed),
        Ok(Some(u64::MAX))
    );
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
            read(with_json(json)).map(|request| request.settings.stop),
            expected,
            "{json}"
        );
    }
    let several = RawRequest {
        stop: Some(vec![b"a".to_vec(), b"[\"b\"]".to_vec()]),
        ..hello()
    };
    assert_eq!(read(several).map(|r| r.settings.stop.len()), Ok(2));
    let none = RawRequest {
        stop: Some(vec![]),
        ..hello()
    };
    assert_eq!(read(none).map(|r| r.settings.stop), Ok(vec![]));
    let invalid = RawRequest {
        stop: Some(vec![b"ab\xff".to_vec()]),
        ..hello()
    };
    assert_eq!(
        read(invalid).map(|r| r.settings.stop),
        Err("input 'stop' is not UTF-8: invalid byte at offset 2".to_owned())
    );
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
