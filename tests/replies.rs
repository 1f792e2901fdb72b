//! The JSON of the chat contract's responses, byte for byte.

mod requests;

use triton_llm::contract::{AnswerPart, Writer};
use triton_llm::engine::{Chosen, Ended, FinishReason, Token, Usage};
use triton_llm::protocol::Settings;
use triton_llm::tensor::Tensor;

use requests::{RawRequest, ask};

fn writer(streaming: bool) -> Box<dyn Writer> {
    let raw = RawRequest {
        text_input: Some(vec![b"Hi".to_vec()]),
        parameters: vec![(
            "stream".to_owned(),
            triton_llm::table::Given::Flag(streaming),
        )],
        ..RawRequest::default()
    };
    let asked = ask(raw, &Settings::default(), true);
    asked.expect("a good request").writer
}

/// An answer of these tokens.
fn answer(texts: &[&str]) -> [AnswerPart; 1] {
    let chosen = texts.iter().map(|text| Chosen {
        token: Token(1),
        text: (*text).to_owned(),
    });
    [AnswerPart {
        index: 0,
        chosen: chosen.collect(),
    }]
}

fn end(reason: FinishReason, usage: Usage) -> [Ended; 1] {
    [Ended { reason, usage }]
}

/// The text of the one output of a response.
fn text(response: Vec<Tensor>) -> String {
    let [output] = &response[..] else {
        panic!("{response:?}")
    };
    assert_eq!(
        (output.name.as_ref(), &output.shape[..]),
        ("text_output", &[1][..])
    );
    output.clone().into_text().expect("one text")
}

#[test]
fn replies_are_the_seeds_json() {
    let usage = Usage {
        prompt_tokens: 12,
        completion_tokens: 3,
        cached_tokens: 4,
    };
    let counts = r#""usage":{"prompt_tokens":12,"completion_tokens":3,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":4}}"#;
    let mut stream = writer(true);
    assert_eq!(
        text(stream.chunk(&answer(&[" \"", "", "é\u{1F600}\n"]))),
        r#"{"type":"chunk","content":" \"é😀\n"}"#
    );
    assert_eq!(text(stream.chunk(&[])), r#"{"type":"chunk","content":""}"#);
    assert_eq!(
        text(stream.error("out of memory")),
        r#"{"type":"error","content":"out of memory"}"#
    );
    // The end of the text has no text.
    assert_eq!(
        text(stream.complete(&answer(&[""]), &end(FinishReason::Length, usage))),
        format!(r#"{{"type":"complete","finish_reason":"length",{counts}}}"#)
    );
    let mut whole = writer(false);
    assert_eq!(
        text(whole.complete(&answer(&["H", "i"]), &end(FinishReason::Stop, usage))),
        format!(r#"{{"type":"complete","content":"Hi","finish_reason":"stop",{counts}}}"#)
    );
    assert_eq!(
        text(whole.complete(&[], &end(FinishReason::Stop, usage))),
        format!(r#"{{"type":"complete","content":"","finish_reason":"stop",{counts}}}"#)
    );
    let most = Usage {
        prompt_tokens: u32::MAX,
        completion_tokens: 1,
        cached_tokens: 0,
    };
    let last = text(stream.complete(&[], &end(FinishReason::Stop, most)));
    assert!(last.contains("\"total_tokens\":4294967295"));
}
