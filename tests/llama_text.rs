//! Text in and out: chat templates, and real vocabularies where they lie beside the project.
//!
//! The vocabularies are looked for in `../shared/data/vocab`. Real templates are the business of `templates.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use triton_llm::engine::{Limits, NewSequence, Sampled, Scheduler, SequenceId, Token};
use triton_llm::llama::{CHATML, ChatTemplate, LoadParams, Model, TemplateError};
use triton_llm::protocol::{Message, Role};

/// Tokenising may need as much stack as the intake thread has.
fn with_big_stack(work: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new()
        .stack_size(64 << 20)
        .spawn(work)
        .expect("a thread starts");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("the folder can be listed").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

fn vocabularies() -> Vec<PathBuf> {
    files(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/vocab"),
        "gguf",
    )
}

fn load_vocabulary(path: &Path) -> Model {
    let params = LoadParams {
        vocab_only: true,
        ..LoadParams::default()
    };
    Model::load(path, &params).unwrap_or_else(|error| panic!("{error}"))
}

/// The texts and token ids that llama.cpp's own tests use.
fn cases(vocabulary: &Path) -> Vec<(String, Vec<Token>)> {
    let read = |suffix: &str| {
        let path = format!("{}.{suffix}", vocabulary.display());
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let inputs = read("inp");
    let outputs = read("out");
    let texts: Vec<_> = inputs.split("\n__ggml_vocab_test__\n").collect();
    let ids: Vec<Vec<Token>> = outputs
        .lines()
        .map(|line| {
            line.split_whitespace()
                .map(|id| Token(id.parse().expect("an id")))
                .collect()
        })
        .collect();
    assert!(ids.len() == texts.len() || ids.len() + 1 == texts.len());
    texts.into_iter().map(str::to_owned).zip(ids).collect()
}

/// What a client would see if the model generated these tokens.
fn streamed(model: &Model, tokens: &[Token]) -> String {
    if tokens.is_empty() {
        return String::new();
    }
    let mut scheduler = Scheduler::new(Limits {
        n_cells: 1024,
        n_batch: 16,
        ..Limits::default()
    });
    let sequence = SequenceId(1);
    let new = NewSequence {
        max_tokens: Some(tokens.len() as u32),
        ..NewSequence::new(sequence, vec![Token(0)])
    };
    scheduler.submit(new).expect("there is room");
    let mut text = String::new();
    for &token in tokens {
        let now = Instant::now();
        let plan = scheduler.schedule(now);
        assert_eq!(plan.rows.len(), 1);
        let sampled = Sampled {
            sequence,
            token,
            piece: model.piece(token),
            end: false,
        };
        for event in scheduler.apply(&[sampled], now) {
            text.extend(event.chosen.into_iter().map(|chosen| chosen.text));
        }
    }
    text
}

#[test]
fn real_vocabularies_give_the_known_tokens() {
    with_big_stack(|| {
        for path in vocabularies() {
            let model = load_vocabulary(&path);
            for (text, expected) in cases(&path) {
                let tokens = model.tokenize(&text, false, false).expect("short");
                assert_eq!(tokens, expected, "{}: {text:?}", path.display());
            }
        }
    });
}

#[test]
fn streamed_text_is_the_whole_text() {
    with_big_stack(|| {
        for path in vocabularies() {
            let model = load_vocabulary(&path);
            for (text, tokens) in cases(&path) {
                // This tokenizer puts a space before a text.
                let spm = model.file().tokenizer == "llama" && !text.is_empty();
                let expected = if spm { format!(" {text}") } else { text };
                assert_eq!(streamed(&model, &tokens), expected, "{}", path.display());
                let n_bytes = model.max_piece_bytes() * tokens.len();
                assert!(n_bytes >= expected.len(), "{}", path.display());
            }
        }
    });
}

#[test]
fn special_tokens_have_no_text_and_bos_comes_once() {
    with_big_stack(|| {
        for path in vocabularies() {
            let model = load_vocabulary(&path);
            assert!(!model.ends().is_empty());
            for &end in model.ends() {
                assert!(model.is_end(end));
                assert_eq!(model.piece(end), b"", "{}: {end:?}", path.display());
            }
            assert_eq!(model.piece(Token(-1)), b"");
            assert_eq!(model.piece(Token(i32::MAX)), b"");
            let bos = model.bos_text().to_owned();
            let plain = model.tokenize_prompt("Hello").expect("short");
            let with_bos = model
                .tokenize_prompt(&format!("{bos}Hello"))
                .expect("short");
            let bos_id = model.tokenize(&bos, false, true).expect("short");
            let n_bos = |tokens: &[Token]| tokens.iter().filter(|id| bos_id.contains(id)).count();
            assert!(n_bos(&plain) <= 1, "{}", path.display());
            assert!(n_bos(&with_bos) <= 1, "{}", path.display());
        }
    });
}

fn message(role: Role, content: &str) -> Message {
    Message::new(role, content)
}

fn render(source: &str, messages: &[Message]) -> Result<String, TemplateError> {
    ChatTemplate::new(source, "<s>", "</s>")?.render(messages)
}

#[test]
fn templates_render_as_hugging_face_does() {
    let hello = [
        message(Role::System, "Be <kind>."),
        message(Role::User, " Hi \"you\"\n"),
    ];
    for (source, expected) in [
        (
            CHATML,
            "<|im_start|>system\nBe <kind>.<|im_end|>\n<|im_start|>user\n Hi \"you\"\n<|im_end|>\n\
             <|im_start|>assistant\n",
        ),
        (
            "{{ bos_token }}|{{ eos_token }}|{{ add_generation_prompt }}",
            "<s>|</s>|True",
        ),
        // Blocks leave no lines behind.
        ("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc"),
        ("a\r\nb", "a\nb"),
        (
            "{% for m in messages %}{{ m['content'].strip()[:2] }};{% endfor %}",
            "Be;Hi;",
        ),
        (
            "{{ messages[0].role.upper() + messages[-1]['role'] }}",
            "SYSTEMuser",
        ),
        (
            "{{ 'a-b'.split('-')[1] }}{{ 'abc'.startswith('ab') }}",
            "bTrue",
        ),
        ("{{ messages[0].get('name', 'nobody') }}", "nobody"),
        ("{{ messages[0].content | tojson }}", "\"Be <kind>.\""),
        ("{{ [1, {'a': 'ü'}] | tojson }}", "[1, {\"a\": \"ü\"}]"),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        (
            "{% for m in messages %}{{ loop.index0 }}{% break %}{% endfor %}",
            "0",
        ),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "2",
        ),
        (
            "{% if tools is iterable and tools | length > 0 %}tools{% endif %}",
            "",
        ),
        (
            "{% if tools is not none %}tools{% endif %}{% if documents %}documents{% endif %}",
            "",
        ),
        ("{{ unknown | length }}", "0"),
        ("{%- generation -%} x {%- endgeneration %}", "x"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('a') }}", "<a>"),
        (
            "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
            "1",
        ),
        ("{{ strftime_now('%Y') | length }}", "4"),
        (r#"{{ "{%}" }}"#, "{%}"),
        ("{{ '{%' }}{% if true %}a{% endif %}", "{%a"),
    ] {
        assert_eq!(render(source, &hello).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn bad_templates_and_messages_are_errors() {
    let hello = [message(Role::User, "Hi")];
    let nested = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    let forever = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    let recursive = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    let long = "{% for a in range(9999) %}{{ 'x' * 1000 }}{% endfor %}";
    for (source, expected) in [
        ("{% if %}", "no valid Jinja"),
        (nested.as_str(), "no valid Jinja"),
        (
            "{{ raise_exception('Only user roles!') }}",
            "the chat template rejects these messages: Only user roles!",
        ),
        ("{{ messages[0].content.nothing.more }}", "cannot render"),
        (forever, "more than 5000000 instructions"),
        (recursive, "cannot render"),
        (long, "makes more than"),
        ("{% include 'other' %}", "cannot render"),
    ] {
        let error = render(source, &hello).expect_err(&source[..source.len().min(80)]);
        assert!(
            error.to_string().contains(expected),
            "{error} lacks {expected}"
        );
    }
    let large = "x".repeat(2 << 20);
    assert_eq!(
        render(&large, &hello),
        Err(TemplateError::TooLarge { n_bytes: 2 << 20 })
    );
}

#[test]
fn a_long_conversation_renders_in_time() {
    let messages: Vec<_> = (0..4096)
        .map(|n| {
            message(
                if n % 2 == 0 {
                    Role::User
                } else {
                    Role::Assistant
                },
                &"word ".repeat(400),
            )
        })
        .collect();
    let template = ChatTemplate::new(CHATML, "", "").expect("valid");
    let prompt = template.render(&messages).expect("it is within the limits");
    assert_eq!(prompt.matches("<|im_end|>").count(), 4096);
}
