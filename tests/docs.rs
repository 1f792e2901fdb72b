//! The pages under `docs/` list every parameter and every field exactly as the tables of the code have it.

use triton_llm::config::fields::FIELDS;
use triton_llm::config::table::TABLE as CONFIG;
use triton_llm::config::{Parameters, parse};
use triton_llm::protocol::Settings;
use triton_llm::protocol::parameters::TABLE as REQUEST;
use triton_llm::table::{Parameter, Table};

/// The rows of the documentation: name, synonyms, type, range, default, meaning.
fn rows<T>(table: &Table<T>) -> Vec<String> {
    let row = |parameter: &Parameter<T>| {
        for text in [parameter.default, parameter.meaning] {
            assert_ne!(text, "", "'{}' is not described", parameter.name);
        }
        let synonyms: Vec<_> = parameter
            .synonyms
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        let default = match parameter.default.starts_with('[') {
            true => format!("`{}`", parameter.default),
            false => parameter.default.to_owned(),
        };
        format!(
            "| `{}` | {} | {} | {} | {} | {} |",
            parameter.name,
            synonyms.join(", "),
            parameter.kind.type_name(),
            parameter.kind.range(None),
            default,
            parameter.meaning,
        )
    };
    table.rows.iter().map(row).collect()
}

fn check(page: &str, title: &str, rows: &[String]) {
    let path = format!("{}/docs/{page}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("the page can be read");
    let lines: Vec<_> = text.lines().collect();
    assert!(
        rows.iter().all(|row| lines.contains(&row.as_str())),
        "docs/{page} differs from the table of {title}, whose rows are:\n{}",
        rows.join("\n")
    );
}

#[test]
fn config_parameters_are_documented() {
    check("parameters.md", "config parameters", &rows(&CONFIG));
}

#[test]
fn configuration_fields_are_documented() {
    let row = |field: &triton_llm::config::fields::Field| {
        let reader = field.reader.as_str();
        format!("| `{}` | {reader} | {} |", field.name, field.meaning)
    };
    check(
        "parameters.md",
        "fields",
        &FIELDS.iter().map(row).collect::<Vec<_>>(),
    );
}

#[test]
fn request_parameters_are_documented() {
    check("requests.md", "request parameters", &rows(&REQUEST));
}

/// The names and defaults of the rows whose default is a value rather than a description.
fn defaults<T>(table: &Table<T>) -> serde_json::Map<String, serde_json::Value> {
    let described = [
        "stop",
        "enable_thinking",
        "model_path",
        "chat_template",
        "chat_template_file",
        "speculative_model",
        "override_tensor",
        "devices",
        "tensor_split",
        "use_mmap",
    ];
    let rows = table
        .rows
        .iter()
        .filter(|row| !described.contains(&row.name));
    rows.map(|row| (row.name.to_owned(), row.default.into()))
        .collect()
}

#[test]
fn documented_defaults_are_the_defaults() {
    let json = serde_json::Value::Object(defaults(&REQUEST)).to_string();
    let settings = triton_llm::protocol::defaults(Settings::default(), &[], &json)
        .expect("the defaults are in range");
    assert_eq!(settings.settings, Settings::default());

    let mut config = serde_json::json!({"name": "m", "parameters": {}});
    for (name, value) in defaults(&CONFIG) {
        config["parameters"][name] = serde_json::json!({"string_value": value});
    }
    let (config, _) = parse(&config.to_string(), true).expect("the defaults are in range");
    assert_eq!(config.parameters, Parameters::default());
}
