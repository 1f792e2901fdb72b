//! The JSON of replies, byte for byte.

use triton_llm::engine::{FinishReason, Usage};
use triton_llm::protocol::reply;

#[test]
fn replies_are_the_seeds_json() {
    let usage = Usage {
        prompt_tokens: 12,
        completion_tokens: 3,
        cached_tokens: 4,
    };
    let counts = r#""usage":{"prompt_tokens":12,"completion_tokens":3,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":4}}"#;
    assert_eq!(
        reply::chunk(" \"é\u{1F600}\n"),
        r#"{"type":"chunk","content":" \"é😀\n"}"#
    );
    assert_eq!(
        reply::error("out of memory"),
        r#"{"type":"error","content":"out of memory"}"#
    );
    assert_eq!(
        reply::complete(FinishReason::Length, &usage),
        format!(r#"{{"type":"complete","finish_reason":"length",{counts}}}"#)
    );
    assert_eq!(
        reply::whole("Hi", FinishReason::Stop, &usage),
        format!(r#"{{"type":"complete","content":"Hi","finish_reason":"stop",{counts}}}"#)
    );
    let most = Usage {
        prompt_tokens: u32::MAX,
        completion_tokens: 1,
        cached_tokens: 0,
    };
    assert!(reply::complete(FinishReason::Stop, &most).contains("\"total_tokens\":4294967295"));
}
