//! Where parameters come from: the model's defaults, the sampling JSON, inputs, the request's own.

use triton_llm::protocol::{Prompt, Role, Settings, defaults};
use triton_llm::table::Given::{Flag as B, Number as D, Whole as I};

use crate::requests::RawRequest;
use crate::{bytes, hello, parse, read, s, with, with_json};

#[test]
fn the_stronger_source_wins() {
    let defaults = defaults(
        Settings::default(),
        &[],
        r#"{"seed":1,"stop":["d"],"max_tokens":4096}"#,
    );
    let defaults = defaults.expect("in range").settings;
    let mut raw = hello();
    let read = |raw: &RawRequest| {
        let r = parse(raw.clone(), &defaults, true).expect("in range");
        (
            r.settings.sampling.seed,
            r.settings.stop.concat(),
            r.settings.max_tokens,
        )
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
        Settings::default(),
        &[],
        r#"{"chat_template_kwargs":{"a":1,"b":1,"enable_thinking":true}}"#,
    );
    let defaults = defaults.expect("in range").settings;
    let mut raw = hello();
    let read = |raw: &RawRequest| {
        let request = parse(raw.clone(), &defaults, true).expect("in range");
        serde_json::json!(request.settings.template_kwargs).to_string()
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
fn defaults_fit_the_context() {
    let check = |json: &str, n_ctx| {
        let defaults = defaults(Settings::default(), &[], json)
            .expect("in range")
            .settings;
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
    assert!(
        defaults(
            Settings::default(),
            &[],
            r#"{"min_tokens":6,"max_tokens":5}"#
        )
        .is_err()
    );
    let defaults = defaults(
        Settings::default(),
        &[],
        r#"{"min_tokens":6,"max_tokens":8}"#,
    );
    let defaults = defaults.expect("in range").settings;
    for (name, value, expected) in [("max_tokens", 5, (5, 5)), ("min_tokens", 9, (9, 9))] {
        let request = parse(with(&[(name, I(value))]), &defaults, true).expect("in range");
        assert_eq!(
            (
                request.settings.sampling.min_tokens,
                request.settings.max_tokens
            ),
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
    let seed = |raw| read(raw).map(|request| request.settings.sampling.seed);
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
    assert!(request.settings.streaming);
    assert_eq!(
        (request.settings.max_tokens, request.settings.stop.len()),
        (None, 0)
    );
}
