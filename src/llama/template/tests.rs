//! That no template is without limits, and what is found out about one at load. `tests/templates.rs`
//! compares what templates mean with Python.

use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::protocol::{Content, Role};

fn messages() -> Vec<Message> {
    [
        (Role::System, "Be <kind>."),
        (Role::User, " Hi \"you\"\n"),
        (
            Role::Assistant,
            "<think>\nHm.\n</think>\n\nHello w\u{f6}rld",
        ),
        (Role::User, "And now?"),
    ]
    .map(|(role, content)| Message::new(role, content))
    .to_vec()
}

fn guarded(source: &str, messages: &[Message]) -> Result<String, String> {
    let template = ChatTemplate::new(source, "<s>", "</s>").map_err(|error| error.to_string())?;
    template.render(messages).map_err(|error| error.to_string())
}

/// Templates that would take memory, time or stack without end, and what they end in.
fn hostile() -> Vec<(String, &'static str)> {
    const WORK: &str = "values of or works on more than";
    let grow = |expr: &str| {
        format!(
            "{{% set ns = namespace(l=[1], s='x') %}}{{% for i in range(99999) %}}{{% set ns.{expr} %}}\
             {{% endfor %}}{{{{ ns.l | length }}}}"
        )
    };
    let long = |unit: &str| format!("{{{{ x{} }}}}", unit.repeat(200_000));
    let mut cases: Vec<(String, &'static str)> = [
        ("{{ 'x' | indent(10**14) }}", "indent by 100000000000000"),
        ("{{ 'x' | indent(width=10**9) }}", "indent by 1000000000"),
        ("{{ '%99999999999d' | format(1) }}", "format: a width"),
        ("{{ '{:>99999999999}'.format('a') }}", "format: a width"),
        ("{{ '{:.99999999999f}'.format(1.5) }}", "format: a width"),
        ("{{ '%*d' | format(10**9, 1) }}", "format: a width"),
        ("{{ 'x' * 10**14 }}", WORK),
        ("{{ ('x' * 90000000) + ('x' * 90000000) + ('x' * 90000000) }}", WORK),
        ("{{ ([1] * 10**14) | length }}", WORK),
        ("{{ 1 in [1] * 10**14 }}", WORK),
        ("{{ range(10**14) | length }}", "too many elements"),
        ("{{ 'x' | replace('', 'y' * 1000000) | replace('y', 'z' * 1000000) }}", WORK),
        ("{{ ('x' * 100000).replace('x', 'y' * 100000) }}", WORK),
        ("{{ (range(99999) | list) | join('x' * 100000) }}", WORK),
        ("{{ ('x' * 100000).join(range(99999) | list) }}", WORK),
        ("{{ range(99999) | batch(10**12) }}", "batch by"),
        ("{{ range(9) | slice(10**12) }}", "slice by"),
        ("{{ 9 ** 999999999 }}", "unable to calculate"),
        ("{{ debug() }}", "unknown"),
        (
            "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
            "cannot be put into another",
        ),
        (
            "{% set ns = namespace() %}{% set ns.me = [{'a': ns}] %}{{ ns }}",
            "cannot be put into another",
        ),
        ("{% set ns = namespace() %}{% set ns.__namespace = 0 %}", "cannot be set"),
        (
            "{% macro f(n) %}{{ n }}{{ f(n + n) }}{% endmacro %}{{ f('x') }}",
            WORK,
        ),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% set x = 'x' * 100000 %}{% endfor %}{% endfor %}",
            WORK,
        ),
        (
            "{% set s = 'x' * 1000000 %}{% for a in range(99999) %}{% if s[1:] == s[2:] %}{% endif %}{% endfor %}",
            WORK,
        ),
        (
            "{% set s = 'x' * 1000000 %}{% for a in range(99999) %}{% if 'y' in s %}{% endif %}{% endfor %}",
            WORK,
        ),
        (
            "{% set s = 'x' * 1000000 %}{% for a in range(99999) %}{% for c in s %}{% break %}{% endfor %}{% endfor %}",
            WORK,
        ),
        (
            "{% for i in range(99999) %}{% set x %}{% for j in range(99999) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endset %}{% endfor %}",
            "more than 5000000 instructions",
        ),
        ("{% import 'chat' as c %}", "no other template"),
        ("{{ 'x'.zfill(10**9) }}", "zfill to 1000000000"),
        ("{{ 'x'.center(10**9) }}", "center to 1000000000"),
        ("{{ 'x'.ljust(10**9) }}", "ljust to 1000000000"),
        ("{{ 'x' | center(10**9) }}", "center to 1000000000"),
        ("{{ 'x' | indent('y' * 2000) }}", "indent by"),
        ("{{ ('\n' * 400000) | indent(1000) }}", WORK),
        ("{{ [1] | tojson(indent='y' * 100) }}", "more than 64 bytes"),
        ("{{ [1] | tojson(indent=10**9) }}", "more than 64 bytes"),
        ("{{ [1] | tojson(separators=('y' * 100, ':')) }}", "more than 64 bytes"),
        ("{{ '%99999999999d' % 1 }}", "format: a width"),
        ("{{ '%*d' % (10**9, 1) }}", "format: a width"),
        ("{{ ('%(a)s' * 100000) % {'a': 'x' * 100000} }}", WORK),
        ("{{ ('{0}' * 100000).format('x' * 100000) }}", WORK),
        ("{{ ('{a}' * 100000).format(a='x' * 100000) }}", WORK),
        ("{{ ('{a[0]}' * 100000).format(a=['x' * 100000]) }}", WORK),
        ("{{ ('\u{1}' * 30000000) | tojson }}", WORK),
        ("{{ ['\u{1}' * 30000000] }}", WORK),
        ("{{ ('<' * 90000000) | e }}", WORK),
        ("{{ (' ' * 90000000) | urlencode }}", WORK),
        ("{{ ('x,' * 90000000).rsplit(',') }}", WORK),
        ("{{ 2 ** 999999999 }}", "unable to calculate"),
        ("{{ 5 | round(10**6) }}", "between -30 and 30"),
        ("{{ 1 // 0 }}", "division by zero"),
        ("{{ '1' | int(0, 99) }}", "between 2 and 36"),
        ("{% macro f() %}{{ f(1, *varargs) }}{% endmacro %}{{ f(1) }}", "is called with * or **"),
        ("{% macro f() %}{{ varargs }}{{ f(varargs, varargs) }}{% endmacro %}{{ f(1) }}", WORK),
    ]
    .map(|(source, expected)| (source.to_owned(), expected))
    .to_vec();
    for (expr, expected) in [
        ("l = ns.l + ns.l", WORK),
        ("l = ns.l * 2", WORK),
        ("s = ns.s + ns.s", WORK),
        ("s = ns.s ~ ns.s", WORK),
        ("s = ns.s * 2", WORK),
        ("s = ns.s | replace('x', 'xx')", WORK),
        ("s = [ns.s, ns.s] | join", WORK),
        ("s = '%s%s' | format(ns.s, ns.s)", WORK),
        ("s = (ns.s, ns.s) | tojson", WORK),
        ("l = [ns.l, ns.l]", WORK),
        ("l = {'a': ns.l}", "deep in each other"),
        ("l = dict(a=ns.l)", "deep in each other"),
        ("l = [ns.l] | batch(1)", "deep in each other"),
        ("l = ns.l | batch(1) | list", "deep in each other"),
        ("s = [ns.s, ns.s] | string", WORK),
        ("s = (ns.s, ns.s) | tojson(ensure_ascii=true)", WORK),
        ("s = '%s%s' % (ns.s, ns.s)", WORK),
        ("s = '%(a)s%(a)s' % {'a': ns.s}", WORK),
        ("s = '{0}{0}'.format(ns.s)", WORK),
        ("s = ns.s.replace('x', 'xx')", WORK),
        ("s = ns.s ~ [ns.s]", WORK),
        ("l = (ns.l, ns.l)", WORK),
        ("l = ns.l.copy() + ns.l", WORK),
        ("l = (ns.l,)", "deep in each other"),
        ("l = dict([('a', ns.l)])", "deep in each other"),
        ("l = {'a': ns.l}.items() | list", "deep in each other"),
    ] {
        cases.push((grow(expr), expected));
    }
    // Each looks at all of a long text, or list, without an end.
    for expr in [
        "s.find('y')",
        "s.rfind('y')",
        "s.count('y')",
        "s.partition('y')",
        "s.rpartition('y')",
        "s.removeprefix('y')",
        "s.removesuffix('y')",
        "s.rsplit('y', 1)",
        "s.splitlines()",
        "s.swapcase()",
        "s.casefold()",
        "s.title()",
        "s.isdigit()",
        "s.islower()",
        "s.isspace()",
        "s.zfill(1)",
        "s.center(1)",
        "s.startswith('y', 1)",
        "s | wordcount",
        "s | urlencode",
        "s | truncate(10)",
        "s | center(10)",
        "s | string | upper",
        "s | int",
        "s | float",
        "s | indent(2)",
        "s | e",
        "s % ()",
        "s.format()",
        "l.index(0)",
        "l.copy()",
        "l | string",
        "l | tojson(sort_keys=true)",
        "l | join(',')",
    ] {
        cases.push((
            format!(
                "{{% set s = 'x' * 1000000 %}}{{% set l = range(1, 90000) | list %}}\
                 {{% for i in range(99999) %}}{{% if {expr} %}}{{% endif %}}{{% endfor %}}"
            ),
            if expr == "l.index(0)" {
                "is not in list"
            } else {
                WORK
            },
        ));
    }
    cases.extend([
        (long("+1"), "a tag has more than"),
        (long(".a"), "a tag has more than"),
        (long("|f"), "a tag has more than"),
        (
            format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}".repeat(50_000)),
            "elif",
        ),
        ("{% if x %}".repeat(50_000), "recursion"),
        (
            format!(
                "{{% set a = [] %}}{}",
                "{% set a = namespace(a=a) %}".repeat(30_000)
            ),
            "deep in each other",
        ),
    ]);
    cases
}

#[test]
fn no_template_takes_memory_time_or_stack_without_end() {
    // As large as those of the threads that load models.
    let thread = thread::Builder::new().stack_size(8 << 20).spawn(|| {
        let mut slowest = Duration::ZERO;
        for (source, expected) in hostile() {
            let start = Instant::now();
            let found = guarded(&source, &messages());
            let took = start.elapsed();
            slowest = slowest.max(took);
            let shown: String = source.chars().take(160).collect();
            let error = found.expect_err(&shown);
            assert!(
                error.contains(expected),
                "{shown}: {error} lacks {expected}"
            );
            assert!(took < Duration::from_secs(20), "{shown}: {took:?}");
        }
        eprintln!("the slowest took {slowest:?}");
    });
    assert!(thread.expect("a thread starts").join().is_ok());
}

#[test]
fn a_rendering_ends_at_its_deadline() {
    let source = "{% for a in range(99999) %}{% set x = 1 + a %}{% endfor %}{{ 'done' }}";
    let template = ChatTemplate::new(source, "", "").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(template.render(&messages()), Ok("done".to_owned()));
    let limit = Duration::from_millis(1);
    let start = Instant::now();
    let found = template.render_as(Wants::default(), &messages(), &Map::new(), limit);
    assert_eq!(found, Err(TemplateError::TooLate { limit }));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_template_that_loops_over_tools_without_a_look_gets_a_list() {
    let source =
        "{% for t in tools %}{{ t }}{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}";
    let hello = [Message::new(Role::User, "Hi")];
    let template = ChatTemplate::new(source, "", "").unwrap_or_else(|error| panic!("{error}"));
    assert!(template.render(&hello).is_err());
    let (template, findings) = probed(source).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(findings, [""; 0]);
    assert_eq!(template.render(&hello).as_deref(), Ok("Hi"));
}

fn probed(source: &str) -> Result<(ChatTemplate, Vec<String>), TemplateError> {
    let template = ChatTemplate::new(source, "<s>", "</s>")?;
    let (template, findings) = template.probed()?;
    Ok((template, findings.iter().map(Finding::to_string).collect()))
}

const PARTS: &str = "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}\
    {% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{% endfor %}";

#[test]
fn a_template_is_given_the_content_that_it_wants() {
    let either = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}\
        {% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}";
    let json = "{% for m in messages %}{{ m.content | tojson }}{% endfor %}";
    let text = Message::new(Role::User, "one");
    let parts = Message {
        content: Content::Parts(vec!["a".to_owned(), "b".to_owned()]),
        ..text.clone()
    };
    for (source, of_text, of_parts) in [
        (PARTS, "[user]one", "[user]ab"),
        (
            "{% for m in messages %}{{ m.content }}{% endfor %}",
            "one",
            "a\nb",
        ),
        (either, "one", "ab"),
        (json, "\"one\"", "\"a\\nb\""),
        (
            "{% for m in messages %}{{ m.content.strip() | upper }}{% endfor %}",
            "ONE",
            "A\nB",
        ),
    ] {
        let (template, findings) =
            probed(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(findings, [""; 0], "{source}");
        for (message, expected) in [(&text, of_text), (&parts, of_parts)] {
            let prompt = template.render(std::slice::from_ref(message));
            assert_eq!(prompt.as_deref(), Ok(expected), "{source}");
        }
    }
}

#[test]
fn a_template_that_loses_the_text_is_an_error() {
    for source in [
        "",
        "hello",
        "{% for m in messages %}{{ m.contents }}{% endfor %}",
        "{% for p in messages[0].content %}{% if p.kind == 'text' %}{{ p.text }}{% endif %}{% endfor %}",
    ] {
        assert_eq!(
            probed(source).map(|_| ()),
            Err(TemplateError::LosesText),
            "{source}"
        );
    }
}

#[test]
fn what_a_template_lacks_is_found() {
    let text = "{% for m in messages %}{{ m.content }}{% endfor %}";
    for (source, expected) in [
        (
            format!("{{{{ 'a'.nothing() }}}}{text}"),
            "string has no method named nothing",
        ),
        (format!("{{{{ nothing() }}}}{text}"), "nothing is unknown"),
        (
            format!("{{% if x %}}{{{{ 'a' | nothing }}}}{{% endif %}}{text}"),
            "filter nothing",
        ),
        (
            format!("{{% if x and 'a' is nothing %}}{{% endif %}}{text}"),
            "test nothing",
        ),
        (
            format!("{{% if messages[1].tool_calls %}}{{{{ 'a'.nothing() }}}}{{% endif %}}{text}"),
            "string has no method named nothing",
        ),
        (
            "{{ raise_exception('Never!') }}".to_owned(),
            "no simple conversation: the chat template rejects these messages: Never!",
        ),
    ] {
        let (_, findings) = probed(&source).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert!(
            findings.len() == 1 || source.contains("() }}{%"),
            "{source}: {findings:?}"
        );
        assert!(
            findings.iter().any(|finding| finding.contains(expected)),
            "{source}: {findings:?} lack {expected}"
        );
    }
}

#[test]
fn system_messages_begin_the_next_user_message_where_the_template_takes_none() {
    let refuses = "{% for m in messages %}{% if m.role == 'system' %}\
        {{ raise_exception('System role not supported') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    let ignores = "{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}";
    let takes = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    let messages = |roles: &[(Role, &str)]| -> Vec<Message> {
        roles
            .iter()
            .map(|&(role, text)| Message::new(role, text))
            .collect()
    };
    use Role::{Assistant, System, User};
    let cases = [
        (messages(&[(System, "S"), (User, "U")]), "<user>S\nU"),
        (
            messages(&[(User, "U"), (Assistant, "A"), (User, "V")]),
            "<user>U<assistant>A<user>V",
        ),
        (
            messages(&[(System, "S"), (System, "T"), (User, "U")]),
            "<user>S\nT\nU",
        ),
        (
            messages(&[(User, "U"), (Assistant, "A"), (System, "S"), (User, "V")]),
            "<user>U<assistant>A<user>S\nV",
        ),
        (messages(&[(System, "S")]), "<user>S"),
    ];
    for source in [refuses, ignores] {
        let (template, findings) = probed(source).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(findings, [Finding::NoSystem.to_string()]);
        for (messages, expected) in &cases {
            assert_eq!(template.render(messages).as_deref(), Ok(*expected));
        }
    }
    let (template, findings) = probed(takes).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(findings, [""; 0]);
    assert_eq!(
        template.render(&cases[0].0).as_deref(),
        Ok("<system>S<user>U")
    );
}

#[test]
fn calls_have_the_arguments_that_the_template_wants() {
    let object = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}\
        {% for k, v in c.function.arguments.items() %}{{ k }}={{ v }};{% endfor %}{% endfor %}{% endfor %}";
    let json = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}\
        {{ c.function.arguments | tojson }}{% endfor %}{% endfor %}";
    let text = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}\
        {{ '<' + c.function.arguments + '>' }}{% endfor %}{% endfor %}";
    let call = |arguments: serde_json::Value, sent: Option<&str>| {
        let call = serde_json::json!({"function": {"name": "f", "arguments": arguments}});
        let call = crate::protocol::ToolCall {
            call: call.as_object().cloned().unwrap_or_default(),
            arguments: sent.map(str::to_owned),
        };
        [Message {
            tool_calls: vec![call],
            ..Message::new(Role::Assistant, "")
        }]
    };
    let as_text = call(
        serde_json::json!({"b": 1, "a": "x"}),
        Some(r#"{"b":1,  "a":"x"}"#),
    );
    let as_object = call(serde_json::json!({"b": 1, "a": "x"}), None);
    for (source, of_text, of_object) in [
        (object, "b=1;a=x;", "b=1;a=x;"),
        (json, r#"{"b": 1, "a": "x"}"#, r#"{"b": 1, "a": "x"}"#),
        (text, r#"<{"b":1,  "a":"x"}>"#, r#"<{"b":1,"a":"x"}>"#),
    ] {
        let (template, findings) = probed(source).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(findings, [""; 0], "{source}");
        assert_eq!(template.render(&as_text).as_deref(), Ok(of_text));
        assert_eq!(template.render(&as_object).as_deref(), Ok(of_object));
    }
    // What is no object stays the text that it is.
    let (template, _) = probed(json).unwrap_or_else(|error| panic!("{error}"));
    let no_object = call("no JSON".into(), Some("no JSON"));
    assert_eq!(template.render(&no_object).as_deref(), Ok("\"no JSON\""));
}

#[test]
fn more_variables_reach_the_template_but_never_its_messages() {
    let source = "{{ messages[0].content }}|{{ enable_thinking }}|{{ add_generation_prompt }}|{{ bos_token }}";
    let (template, _) = probed(source).unwrap_or_else(|error| panic!("{error}"));
    let kwargs = serde_json::json!({"enable_thinking": false, "add_generation_prompt": false, "messages": []});
    let kwargs = kwargs.as_object().cloned().unwrap_or_default();
    let hello = [Message::new(Role::User, "Hi")];
    assert_eq!(template.render(&hello).as_deref(), Ok("Hi||True|<s>"));
    let prompt = template.render_with(&hello, &kwargs);
    assert_eq!(prompt.as_deref(), Ok("Hi|False|False|<s>"));
}

#[test]
fn a_message_has_only_the_keys_that_were_sent() {
    let source = "{% for m in messages %}{{ m.content }}{{ m.keys() | list }}{% endfor %}";
    let (template, _) = probed(source).unwrap_or_else(|error| panic!("{error}"));
    let plain = Message::new(Role::User, "Hi");
    let full = Message {
        name: Some("n".to_owned()),
        reasoning: Some("r".to_owned()),
        ..Message::new(Role::Assistant, "Ho")
    };
    assert_eq!(
        template.render(&[plain, full]).as_deref(),
        Ok("Hi['role', 'content']Ho['role', 'content', 'name', 'reasoning_content', 'thinking']")
    );
}
