//! The names of parameters: synonyms, those of other servers' clients, and those that nobody knows.

use triton_llm::protocol::Settings;
use triton_llm::table::Given::Whole as I;

use crate::{hello, outcome, parse, read, refused, s, with, with_json};

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
        assert_eq!(
            read(with(&both)).map(|r| r.settings.max_tokens),
            Ok(Some(7))
        );
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
        let lax = parse(raw, &Settings::default(), false);
        assert_eq!(
            lax.expect("unknown names pass").settings.sampling.seed,
            Some(7)
        );
    }
    let lax = parse(with(&[("top_p", I(2))]), &Settings::default(), false);
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
