//! Chat templates against the original: jinja2 as Hugging Face sets it up, run by Python beside the test.
//!
//! The templates are those that llama.cpp's source carries. `scripts/setup.sh --tests` fetches both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::{Map, Value};
use triton_llm::llama::{ChatTemplate, Finding};
use triton_llm::protocol::{Message, Role};

/// What Python made of a template.
#[derive(Deserialize)]
struct Case {
    name: String,
    source: String,
    variables: Map<String, Value>,
    text: Option<String>,
    error: Option<String>,
}

fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python: PathBuf = root.join(".venv/bin/python");
    let output = Command::new(&python)
        .arg(root.join("tests/templates/reference.py"))
        .arg(root.join("build/templates"))
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "{}: {error}: run scripts/setup.sh --tests",
                python.display()
            )
        });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).expect("a list of cases")
}

fn rendered(template: &Result<ChatTemplate, String>, case: &Case) -> Result<String, String> {
    let rendered = template
        .as_ref()
        .map_err(String::clone)?
        .render_variables(&case.variables);
    rendered.map_err(|error| error.to_string())
}

/// What we do otherwise, by the beginning of a case's name, and why.
const DIFFERENT: [(&str, &str); 2] = [
    (
        "meetkai-functionary-medium-v3.1.jinja",
        "adds the texts of tools to what `safe` marked, which Jinja then escapes as HTML, and we do not",
    ),
    (
        "llama-cpp-deepseek-r1.jinja",
        "gives tojson a generator, which Python refuses and we write as a list",
    ),
];

#[test]
fn templates_render_as_in_python() {
    let (mut n_equal, mut n_refused, mut n_known) = (0, 0, 0);
    let mut differ = Vec::new();
    let cases = cases();
    assert!(cases.len() > 70 * 19, "{} cases", cases.len());
    let mut last: Option<(String, Result<ChatTemplate, String>)> = None;
    for case in cases {
        // One after the other, as there are many conversations for each.
        let (_, template) = match last.take() {
            Some(last) if last.0 == case.source => last,
            _ => {
                let template = ChatTemplate::new(&case.source, "<s>", "</s>");
                let template = template.map_err(|error| error.to_string());
                (case.source.clone(), template)
            }
        };
        let found = rendered(&template, &case);
        last = Some((case.source.clone(), template));
        match (&case.text, &found) {
            (Some(expected), Ok(found)) if expected == found => n_equal += 1,
            (None, Err(_)) => n_refused += 1,
            _ if DIFFERENT
                .iter()
                .any(|(name, _)| case.name.starts_with(name)) =>
            {
                n_known += 1
            }
            _ => {
                let python = case.text.as_ref().ok_or(case.error.unwrap_or_default());
                differ.push(format!(
                    "{}\n  Python: {python:?}\n  ours:   {found:?}",
                    case.name
                ));
            }
        }
    }
    eprintln!(
        "{n_equal} equal, {n_refused} refused by both, {n_known} known and {} more different",
        differ.len()
    );
    assert!(
        differ.is_empty(),
        "{} differ:\n{}",
        differ.len(),
        differ.join("\n")
    );
    // Five conversations with tools each: what they do besides stays equal.
    assert_eq!(n_known, 10);
}

/// What the log says at load of real templates, in the order of their names.
#[test]
fn real_templates_load_and_what_they_lack_is_known() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/templates");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("scripts/setup.sh --tests made it") {
        let path = entry.expect("an entry").path();
        if path
            .extension()
            .is_none_or(|extension| extension != "jinja")
        {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let source = fs::read_to_string(&path).expect("readable");
        let template = ChatTemplate::new(&source, "<s>", "</s>");
        let probed = template.and_then(ChatTemplate::probed);
        let (template, findings) = probed.unwrap_or_else(|error| panic!("{name}: {error}"));
        let fails = findings
            .iter()
            .any(|finding| matches!(finding, Finding::Fails { .. }));
        found.extend(
            findings
                .into_iter()
                .map(|finding| format!("{name}: {finding}")),
        );
        let prompt = template.render(&[Message::new(Role::User, "Hello, wörld!")]);
        let is_shown = prompt.is_ok_and(|prompt| prompt.contains("Hello, wörld!"));
        assert_ne!(is_shown, fails, "{name}");
    }
    found.sort();
    let missing = "the chat template calls what is not there, requests that need it are refused";
    let append = "sequence has no method named append";
    assert_eq!(
        found,
        [
            // transformers has none of these either, and its lists cannot be changed.
            format!("Kimi-K2-Instruct: {missing}: {append} (line 41)"),
            format!("Kimi-K2-Thinking: {missing}: {append} (line 35)"),
            format!("deepseek-ai-DeepSeek-V3.2: {missing}: filter from_json"),
            format!("deepseek-ai-DeepSeek-V4-Flash-0731: {missing}: filter from_json"),
            format!("deepseek-ai-DeepSeek-V4: {missing}: filter from_json"),
            // It wants a variable `datetime`, which nobody gives it.
            "fireworks-ai-llama-3-firefunction-v2: the chat template renders no simple conversation: \
             the chat template cannot render these messages: \
             tried to use + operator on unsupported types string and undefined (line 21)"
                .to_owned(),
            "google-gemma-2-2b-it: the chat template takes no system messages: \
             each is put before the user message that follows"
                .to_owned(),
        ]
    );
}
