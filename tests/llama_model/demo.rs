//! The demo model's answers, as its training script wrote them down.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use triton_llm::engine::Token;
use triton_llm::llama::{ChatTemplate, ContextParams, FlashAttention, LoadParams, Model, Runner};
use triton_llm::protocol::{Message, Role};

use crate::running::{Request, generate, greedy};

/// The demo model.
pub fn demo_model() -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("triton_repo/llm_decoupled/1/demo.gguf");
    let model = Model::load(&path, &LoadParams::default());
    Arc::new(model.unwrap_or_else(|error| panic!("{error}")))
}

/// Chats, and what the model's training answered to them.
pub fn known_answers(model: &Model) -> (Vec<Request>, Vec<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let known = fs::read_to_string(root.join("tests/e2e/demo_greedy.json"));
    let known = known.expect("the answers are in the repository");
    let known: serde_json::Value = serde_json::from_str(&known).expect("JSON");
    let source = model
        .chat_template()
        .expect("the demo model has a template");
    let template = ChatTemplate::new(source, model.bos_text(), model.eos_text()).expect("valid");
    let mut requests = Vec::new();
    let mut expected = Vec::new();
    for case in known.as_array().expect("a list of cases") {
        let messages: Vec<Message> = messages(&case["messages"]);
        let prompt = template.render(&messages).expect("it renders");
        let tokens = model.tokenize_prompt(&prompt).expect("short");
        let known: Vec<_> = case["prompt_tokens"]
            .as_array()
            .expect("a list")
            .iter()
            .collect();
        let known = known
            .iter()
            .map(|id| Token(id.as_i64().expect("an id") as i32));
        assert_eq!(tokens, known.collect::<Vec<_>>(), "{prompt}");
        let max_tokens = case["max_tokens"].as_u64().expect("a number") as u32;
        requests.push((tokens, greedy(), max_tokens));
        expected.push(case["text"].as_str().expect("a text").to_owned());
    }
    (requests, expected)
}

#[test]
fn the_demo_model_says_what_its_training_said() {
    let model = demo_model();
    let (requests, expected) = known_answers(&model);
    // As small models run on CPUs, as those with large heads do, and as they do on old processors.
    for (flash_attention, own_attention) in [
        (FlashAttention::Off, true),
        (FlashAttention::On, true),
        (FlashAttention::On, false),
    ] {
        let params = ContextParams {
            n_slots: 8,
            n_cells: 8192,
            flash_attention,
            own_attention,
            ..ContextParams::default()
        };
        let runner = Runner::new(model.clone(), &params);
        let mut runner = runner.unwrap_or_else(|error| panic!("{error}"));
        for (request, expected) in requests.iter().zip(&expected) {
            let alone = generate(&mut runner, &model, 1, std::slice::from_ref(request));
            assert_eq!(alone, [expected.as_str()]);
        }
        assert_eq!(generate(&mut runner, &model, 8, &requests), expected);
    }
}

fn messages(value: &serde_json::Value) -> Vec<Message> {
    let messages = value.as_array().expect("a list of messages").iter();
    messages
        .map(|message| {
            let role = match message["role"].as_str() {
                Some("system") => Role::System,
                Some("assistant") => Role::Assistant,
                Some("tool") => Role::Tool,
                _ => Role::User,
            };
            Message::new(role, message["content"].as_str().expect("text"))
        })
        .collect()
}
