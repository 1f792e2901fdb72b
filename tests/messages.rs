//! `text_input` read as tables: which texts are messages, which are plain, and what is refused.

mod requests;

use proptest::prelude::*;
use triton_llm::contract::ContractError;
use triton_llm::protocol::{Content, GenerateRequest, Prompt, Role, Settings, defaults};
use triton_llm::table::Given;

use requests::{LIMITS, RawRequest, ask};

fn parse(
    raw: RawRequest,
    defaults: &Settings,
    strict: bool,
) -> Result<GenerateRequest, ContractError> {
    ask(raw, defaults, strict).map(|asked| asked.request)
}

fn read(elements: Option<Vec<Vec<u8>>>) -> Result<Vec<(Role, String)>, String> {
    let raw = RawRequest {
        text_input: elements,
        ..RawRequest::default()
    };
    let request = parse(raw, &Settings::default(), true);
    let Prompt::Messages(messages) = request.map_err(|error| error.to_string())?.prompt;
    Ok(messages
        .into_iter()
        .map(|message| (message.role, message.content.text().into_owned()))
        .collect())
}

fn text(text: &str) -> Result<Vec<(Role, String)>, String> {
    read(Some(vec![text.as_bytes().to_vec()]))
}

#[test]
fn messages_are_read() {
    use Role::{Assistant, System, Tool, User};
    let cases: [(&str, &[(Role, &str)]); 12] = [
        (r#"[{"role":"user","content":"Hi"}]"#, &[(User, "Hi")]),
        (
            " \n[ \t{\"content\":\"Hi\",\"role\":\"user\"}\n]\n",
            &[(User, "Hi")],
        ),
        (
            r#"[{"role":"system","content":"S"},{"role":"user","content":"U"},{"role":"assistant","content":"A"},{"role":"tool","tool_call_id":"c1","content":"42"}]"#,
            &[(System, "S"), (User, "U"), (Assistant, "A"), (Tool, "42")],
        ),
        (
            r#"[{"role":"user","name":null,"tool_calls":[],"content":"x","extra":{"deep":[[1]]}}]"#,
            &[(User, "x")],
        ),
        (
            r#"[{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f"}}]}]"#,
            &[(Assistant, "")],
        ),
        (r#"[{"role":"assistant"}]"#, &[(Assistant, "")]),
        (r#"[{"role":"developer","content":"S"}]"#, &[(System, "S")]),
        (r#"[{"role":"user","content":""}]"#, &[(User, "")]),
        (
            r#"[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]"#,
            &[(User, "a\nb")],
        ),
        (r#"[{"role":"user","content":[]}]"#, &[(User, "")]),
        (
            r#"[{"role":"user","content":"a\u0000b"}]"#,
            &[(User, "a\0b")],
        ),
        (
            "[{\"role\":\"user\",\"content\":\"\\ud83d\\ude00é\"}]",
            &[(User, "😀é")],
        ),
    ];
    for (json, expected) in cases {
        let expected = expected
            .iter()
            .map(|(role, text)| (*role, (*text).to_owned()))
            .collect();
        assert_eq!(text(json), Ok(expected), "{json}");
    }
}

#[test]
fn other_text_is_one_user_message_as_it_is() {
    let brackets = "[".repeat(100_000);
    for plain in [
        "",
        " ",
        "Say hello",
        " leading and trailing ",
        "[1] see below",
        "[1, 2, 3]",
        "[\"role\"]",
        "[[{\"role\":\"user\"}]]",
        "[{x}] is a set",
        "[{\"id\":1}]",
        "[",
        "[]x",
        "{\"role\":\"user\",\"content\":\"x\"}",
        "a\0b",
        "\u{feff}[]",
        &brackets,
    ] {
        assert_eq!(text(plain), Ok(vec![(Role::User, plain.to_owned())]));
    }
}

#[test]
fn bad_messages_are_named() {
    let roles = "must be one of system, developer, user, assistant, tool";
    let part = "must be an object of type \"text\"";
    let content = "must be a string or a list of text parts";
    let cases = [
        (
            "[]",
            "'text_input' is an empty list of messages: must have at least 1".to_owned(),
        ),
        (
            " [ ] ",
            "'text_input' is an empty list of messages: must have at least 1".to_owned(),
        ),
        (
            r#"[{"role":"user","content":"x"}"#,
            "'text_input': invalid JSON: EOF while parsing a list at line 1 column 30".to_owned(),
        ),
        (
            r#"[{'role': 'user'}]"#,
            "'text_input': invalid JSON: key must be a string at line 1 column 3".to_owned(),
        ),
        (
            r#"[{"role":"user","content":"x"}] tail"#,
            "'text_input': invalid JSON: trailing characters at line 1 column 33".to_owned(),
        ),
        (
            r#"[{"role":"user","content":"\ud800"}]"#,
            "'text_input': invalid JSON: unexpected end of hex escape at line 1 column 34"
                .to_owned(),
        ),
        (
            r#"[{"role":"user","content":"x"},7]"#,
            "text_input[1] is a number: must be an object with 'role' and 'content'".to_owned(),
        ),
        (
            r#"[{"role":"user","content":"x"},{"rol":1}]"#,
            format!("text_input[1].role is missing: {roles}"),
        ),
        (
            r#"[{"content":"x"}]"#,
            format!("text_input[0].role is missing: {roles}"),
        ),
        (
            r#"[{"role":"robot","content":"x"}]"#,
            format!("text_input[0].role = \"robot\": {roles}"),
        ),
        (
            r#"[{"role":"User","content":"x"}]"#,
            format!("text_input[0].role = \"User\": {roles}"),
        ),
        (
            r#"[{"role":null,"content":"x"}]"#,
            format!("text_input[0].role = null: {roles}"),
        ),
        (
            r#"[{"role":"user"}]"#,
            format!("text_input[0].content is missing: {content}"),
        ),
        (
            r#"[{"role":"user","content":null}]"#,
            format!("text_input[0].content is null: {content}"),
        ),
        (
            r#"[{"role":"tool","content":7}]"#,
            format!("text_input[0].content is a number: {content}"),
        ),
        (
            r#"[{"role":"user","content":{}}]"#,
            format!("text_input[0].content is an object: {content}"),
        ),
        (
            r#"[{"role":"user","content":["x"]}]"#,
            format!("text_input[0].content[0] is a string: {part}"),
        ),
        (
            r#"[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{}}]}]"#,
            "text_input[0].content[1].type = \"image_url\": must be \"text\"".to_owned(),
        ),
        (
            r#"[{"role":"user","content":[{"text":"a"}]}]"#,
            "text_input[0].content[0].type = missing: must be \"text\"".to_owned(),
        ),
        (
            r#"[{"role":"user","content":[{"type":"text"}]}]"#,
            "text_input[0].content[0].text is missing: must be a string".to_owned(),
        ),
        (
            r#"[{"role":"user","content":"x","name":7}]"#,
            "text_input[0].name is a number: must be a string".to_owned(),
        ),
        (
            r#"[{"role":"assistant","reasoning_content":[]}]"#,
            "text_input[0].reasoning_content is a list: must be a string".to_owned(),
        ),
        (
            r#"[{"role":"assistant","tool_calls":{}}]"#,
            "text_input[0].tool_calls is an object: must be a list of calls".to_owned(),
        ),
        (
            r#"[{"role":"assistant","tool_calls":[{"function":{"name":"f"}},7]}]"#,
            "text_input[0].tool_calls[1] is a number: must be an object with 'function'".to_owned(),
        ),
        (
            r#"[{"role":"assistant","tool_calls":[{}]}]"#,
            "text_input[0].tool_calls[0].function is missing: must be an object with 'name'"
                .to_owned(),
        ),
        (
            r#"[{"role":"assistant","tool_calls":[{"function":{"name":null}}]}]"#,
            "text_input[0].tool_calls[0].function.name is null: must be a string".to_owned(),
        ),
        (
            r#"[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":7}}]}]"#,
            "text_input[0].tool_calls[0].function.arguments is a number: \
             must be an object, or a string with one"
                .to_owned(),
        ),
    ];
    for (json, expected) in cases {
        assert_eq!(text(json), Err(expected), "{json}");
    }
}

#[test]
fn sizes_are_bounded() {
    let repeat = |n: usize| {
        let messages = vec![r#"{"role":"user","content":"x"}"#; n];
        format!("[{}]", messages.join(","))
    };
    assert_eq!(text(&repeat(4096)).map(|messages| messages.len()), Ok(4096));
    let nested = |n: usize| {
        let (open, close) = ("[".repeat(n), "]".repeat(n));
        format!("[{{\"role\":\"user\",\"content\":\"x\",\"extra\":{open}{close}}}]")
    };
    assert!(text(&nested(62)).is_ok());
    // Brackets inside strings are text, an escaped quote does not end one.
    let inside = format!(r#"[{{"role":"user","content":"\"{}"}}]"#, "[".repeat(1000));
    assert!(text(&inside).is_ok());
    let values = format!(
        "[{{\"role\":\"user\",\"content\":[{}0]}}]",
        "0,".repeat(200_000)
    );
    for (json, expected) in [
        (
            repeat(4097),
            "'text_input' has 4097 messages: must have at most 4096",
        ),
        (
            nested(63),
            "'text_input': JSON is nested deeper than 64 levels at byte 100",
        ),
        (
            nested(100_000),
            "'text_input': JSON is nested deeper than 64 levels at byte 100",
        ),
        (
            values,
            "'text_input': JSON has more than 100000 values at byte 200018",
        ),
        (
            "x".repeat((1 << 20) + 1),
            "input 'text_input' has 1048577 bytes: must have at most 1048576",
        ),
    ] {
        assert_eq!(text(&json), Err(expected.to_owned()));
    }
    assert!(text(&"x".repeat(1 << 20)).is_ok());
    let long_role = format!(r#"[{{"role":"{}"}}]"#, "r".repeat(1 << 16));
    assert!(text(&long_role).is_err_and(|error| error.len() < 200));
}

#[test]
fn elements_are_one_text_in_utf8() {
    for (elements, expected) in [
        (None, "input 'text_input' is missing"),
        (
            Some(vec![]),
            "input 'text_input' has 0 elements: must have 1, one text per request",
        ),
        (
            Some(vec![b"a".to_vec(), b"b".to_vec()]),
            "input 'text_input' has 2 elements: must have 1, one text per request",
        ),
        (
            Some(vec![b"caf\xc3".to_vec()]),
            "input 'text_input' is not UTF-8: invalid byte at offset 3",
        ),
        (
            Some(vec![b"\xed\xa0\x80".to_vec()]),
            "input 'text_input' is not UTF-8: invalid byte at offset 0",
        ),
    ] {
        assert_eq!(read(elements), Err(expected.to_owned()));
    }
}

fn request(text_input: &str) -> GenerateRequest {
    let raw = RawRequest {
        text_input: Some(vec![text_input.as_bytes().to_vec()]),
        ..RawRequest::default()
    };
    let request = parse(raw, &Settings::default(), true);
    request.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn what_templates_read_of_a_message_is_kept() {
    let json = r#"[{"role":"assistant","name":"n","reasoning":"hm","content":[{"type":"text","text":"a"}],
        "tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"b\":1,\"a\":[2]}"}},
        {"function":{"arguments":{"x":1},"name":"g"}},{"function":{"name":"h","arguments":"no JSON"}}]},
        {"role":"tool","tool_call_id":"c","content":"42"}]"#;
    let Prompt::Messages(messages) = request(json).prompt;
    let [assistant, tool] = &messages[..] else {
        panic!("{messages:?}");
    };
    assert_eq!(assistant.name.as_deref(), Some("n"));
    assert_eq!(assistant.reasoning.as_deref(), Some("hm"));
    assert_eq!(assistant.content, Content::Parts(vec!["a".to_owned()]));
    assert_eq!(tool.tool_call_id.as_deref(), Some("c"));
    let calls: Vec<_> = assistant
        .tool_calls
        .iter()
        .map(|call| {
            (
                serde_json::json!(call.call).to_string(),
                call.arguments.as_deref(),
            )
        })
        .collect();
    // In the order in which the client wrote the keys.
    let expected = [
        (
            r#"{"id":"c","type":"function","function":{"name":"f","arguments":{"b":1,"a":[2]}}}"#,
            Some(r#"{"b":1,"a":[2]}"#),
        ),
        (r#"{"function":{"arguments":{"x":1},"name":"g"}}"#, None),
        (
            r#"{"function":{"name":"h","arguments":"no JSON"}}"#,
            Some("no JSON"),
        ),
    ];
    assert_eq!(calls, expected.map(|(call, text)| (call.to_owned(), text)));
}

#[test]
fn json_within_texts_has_the_limits_of_json() {
    let call = |arguments: &str| {
        let arguments = serde_json::Value::from(arguments);
        format!(
            r#"{{"role":"assistant","tool_calls":[{{"function":{{"name":"f","arguments":{arguments}}}}}]}}"#
        )
    };
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(64), "]".repeat(64));
    let wide = format!("{{\"a\":[{}0]}}", "0,".repeat(60_000));
    for (json, expected) in [
        (
            format!("[{}]", call(&deep)),
            "text_input[0].tool_calls[0].function.arguments: JSON is nested deeper than 64 levels at byte 68",
        ),
        (
            format!("[{},{}]", call(&wide), call(&wide)),
            "text_input[1].tool_calls[0].function.arguments: JSON has more than 100000 values at byte 120009",
        ),
    ] {
        assert_eq!(text(&json), Err(expected.to_owned()));
    }
    assert!(text(&format!("[{}]", call(&wide))).is_ok());
}

/// Pieces that make structured garbage likelier than random bytes do.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "\"",
        "\\",
        "\"role\"",
        "\"user\"",
        "\"content\"",
        "\"type\"",
        "\"text\"",
        "\"stop\"",
        "\"seed\"",
        "\"tool_calls\"",
        "\"function\"",
        "\"chat_template_kwargs\"",
        "\"top_p\"",
        "null",
        "-1",
        "1e308",
        "1e999",
        "\\ud800",
        "é",
    ]);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..16).prop_map(|tail| [
            b"[{\"role\":\"user\",\"content\":".as_slice(),
            &tail
        ]
        .concat()),
    ]
}

fn value() -> impl Strategy<Value = Given> {
    prop_oneof![
        any::<i64>().prop_map(|int| Given::Whole(int.into())),
        any::<bool>().prop_map(Given::Flag),
        any::<f64>().prop_map(Given::Number),
        garbage().prop_map(|b| Given::Text(String::from_utf8_lossy(&b).into_owned())),
    ]
}

fn name() -> impl Strategy<Value = String> {
    let known = [
        "temperature",
        "top_k",
        "top_p",
        "seed",
        "chat_template_kwargs",
        "enable_thinking",
        "stop",
        "max_tokens",
        "min_tokens",
        "stream",
        "repeat_penalty",
        "sampling_parameters",
        "triton_x",
    ];
    prop_oneof![4 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_is_a_valid_request_or_an_error(
        texts in prop::option::of(prop::collection::vec(garbage(), 0..3)),
        json in prop::option::of(prop::collection::vec(garbage(), 0..2)),
        stop in prop::option::of(prop::collection::vec(garbage(), 0..3)),
        parameters in prop::collection::vec((name(), value()), 0..4),
        strict in any::<bool>(),
    ) {
        let _ = defaults(Settings::default(), &[], &String::from_utf8_lossy(&json.clone().unwrap_or_default().concat()));
        let raw = RawRequest {
            text_input: texts, sampling_parameters: json, parameters_input: None, stop, parameters,
        };
        match parse(raw, &Settings::default(), strict) {
            Err(error) => prop_assert!(error.to_string().len() < 1024),
            Ok(request) => {
                let Prompt::Messages(messages) = &request.prompt;
                prop_assert!(!messages.is_empty());
                let sampling = &request.settings.sampling;
                prop_assert!(request.settings.max_tokens.is_none_or(|n| (1..=LIMITS.n_ctx).contains(&n)));
                prop_assert!(sampling.min_tokens <= request.settings.max_tokens.unwrap_or(LIMITS.n_ctx));
                prop_assert!(sampling.temperature == 0.0 || (0.01..=100.0).contains(&sampling.temperature));
                prop_assert!(sampling.top_p > 0.0 && sampling.top_p <= 1.0);
                prop_assert!((0.01..=10.0).contains(&sampling.repetition_penalty));
                prop_assert!(request.settings.stop.len() <= 32);
                prop_assert!(request.settings.stop.iter().all(|stop| (1..=1024).contains(&stop.len())));
            }
        }
    }
}
