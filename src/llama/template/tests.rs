//! That no template is without limits, and that none means anything else for having them.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::*;

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
    .map(|(role, content)| Message {
        role,
        content: content.to_owned(),
    })
    .to_vec()
}

/// What minijinja makes of a template as it stands.
fn unguarded(source: &str, messages: &[Message]) -> Result<String, String> {
    budget::fill(u64::MAX, None);
    let mut environment = environment();
    environment.set_keep_trailing_newline(false);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment
        .add_template_owned(NAME, normalised(source))
        .map_err(|error| describe(&error))?;
    let template = environment.get_template(NAME).expect("it was added");
    let context = context! {
        messages => messages,
        tools => (),
        documents => (),
        add_generation_prompt => true,
        bos_token => "<s>",
        eos_token => "</s>",
    };
    template.render(context).map_err(|error| describe(&error))
}

fn guarded(source: &str, messages: &[Message]) -> Result<String, String> {
    let template = ChatTemplate::new(source, "<s>", "</s>").map_err(|error| error.to_string())?;
    template.render(messages).map_err(|error| error.to_string())
}

/// Also the templates in the folder that `LLAMA_TEMPLATES` names, if it does.
fn templates() -> Vec<(String, String)> {
    let written = [
        CHATML,
        "{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ 7 % 4 }} {{ 2 ** 10 }} {{ -3 + 1.5 }} {{ 1.5 * 2 }} {{ -(1 + 2) }}",
        "{{ 'a' + 'b' ~ 1 ~ none ~ [1, 'x'] }} {{ 'ab' * 3 }} {{ ([1, 2] * 2) | join(',') }} {{ [1] + [2, 'c'] }}",
        "{{ 1 == 1.0 }} {{ 'a' != 'b' }} {{ 1 < 2 < 3 }} {{ 3 > 2 >= 2 }} {{ 1 <= 0 }} {{ 'a' in 'cat' }} {{ 2 not in [1] }}",
        "{{ not 'a' in 'b' }} {{ (1 if none is none else 2) }} {{ x is defined if y is undefined }} {{ true and false or not none }}",
        "{{ messages[1:][0].role }} {{ messages[::-1][0].role }} {{ 'abcdef'[1:4] }} {{ 'abcdef'[::-2] }} {{ 'abc'[-2:] }} {{ 'abc'[:-1] }}",
        "{% for m in messages[1:] %}{{ loop.index }}{{ loop.last }}{{ m.role }}{% else %}none{% endfor %}",
        "{% for k, v in {'a': 1, 'b': messages[0].role}.items() %}{{ k }}={{ v }};{% endfor %}",
        "{% for m in messages if m.role == 'user' %}{{ m.content | trim }}{% endfor %}",
        "{% for a in [[1, [2]], [3]] recursive %}{% if a is iterable %}({{ loop(a) }}){% else %}{{ a }}{% endif %}{% endfor %}",
        "{% set ns = namespace(n=0, t='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.t = ns.t ~ m.role %}{% endfor %}{{ ns.n }}{{ ns.t }}",
        "{% macro f(a, b='c', d=none) %}<{{ a }}{{ b }}{{ d is none }}>{% endmacro %}{{ f('x') }}{{ f('x', d=1, b='q') }}",
        "{% macro f(a) %}[{{ caller(a) }}]{% endmacro %}{% call(x) f(2) %}{{ x + 1 }}{% endcall %}",
        "{% set x %}a{{ 1 }}b{% endset %}{{ x | upper }}{% set y | trim | upper %} q {% endset %}{{ y }}{% filter upper %}abc{% endfilter %}",
        "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{% block x %}in{% endblock %}{% raw %}{{ x }}{% endraw %}",
        "{% if messages[0].role == 'x' %}1{% elif messages | length > 3 %}2{% elif true %}3{% else %}4{% endif %}",
        "a\n  {% if true %}\n  b \"q\" \\ {{ '{{' }} \u{1} \u{e9}\n  {% endif %}\nc {#- no -#}\n\n",
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | tojson }}",
        "{{ messages | rejectattr('role', 'in', ['user', 'system']) | list | length }} {{ range(3) | list }} {{ range(5, 0, -2) | join }}",
        "{{ 'a,b'.split(',') }} {{ 'Ab'.lower() }} {{ ' x '.strip() }} {{ 'x'.join(['a', 'b']) }} {{ 'aXb'.replace('X', '-') }} {{ {'a': 1}.get('b', 7) }}",
        "{{ '%s-%05d' | format('a', 3) }} {{ '{}!'.format('b') }} {{ 'a\nb' | indent(2) }} {{ 'a b' | title }} {{ [3, 1] | sort }} {{ [1, 1] | unique | list }}",
        "{{ [1, 2, 3] | batch(2) | list }} {{ [1, 2, 3] | slice(2) | list }} {{ [1, 2] | sum }} {{ [1, 2] | last }} {{ [1, 2] | reverse | list }} {{ {'b': 1, 'a': 2} | dictsort }}",
        "{{ dict(a=1) }} {{ {'a': [1, {'b': none}], 'c': true} | tojson(indent=2) }} {{ messages[0]['content'] | e }} {{ (1, 'a')[1] }}",
        "{{ 'a' if false }}{{ ('a' ~ 'b') | length }}{{ (messages | first).role }}{{ messages[-1].content[0] }}{% set a, b = 1, 2 %}{{ b }}",
        "{{ 1 + 'a' }}",
        "{{ nothing + 'a' }}",
        "{{ 'a' < 1 }}{{ none == undefined_one }}{{ [1] == [1] }}{{ {'a': 1} == {'a': 1} }}{{ [1, 2] < [1, 3] }}",
        "a\n\n{% set x = 1 %}\n{{ messages[0].nothing.more }}",
    ];
    let mut all: Vec<_> = written
        .map(|text| (text.to_owned(), text.to_owned()))
        .to_vec();
    let folder = std::env::var_os("LLAMA_TEMPLATES");
    for entry in folder
        .into_iter()
        .flat_map(|folder| fs::read_dir(folder).expect("a folder"))
    {
        let path = entry.expect("an entry").path();
        let source = fs::read_to_string(&path).expect("readable");
        all.push((path.display().to_string(), source));
    }
    all
}

#[test]
fn limits_change_no_meaning() {
    let messages = messages();
    for (name, source) in templates() {
        let expected = unguarded(&source, &messages);
        let found = guarded(&source, &messages);
        match (expected, found) {
            (Ok(expected), Ok(found)) => assert_eq!(found, expected, "{name}"),
            // With the same words and on the same line, which a refusal by the template itself lacks.
            (Err(expected), Err(found)) => {
                let said = expected.split(" (line").next().unwrap_or_default();
                let rejects = found.contains("rejects these messages") && found.contains(said);
                assert!(
                    rejects || found.contains(&expected),
                    "{name}: {found} lacks {expected}"
                );
            }
            (expected, found) => panic!("{name}: {found:?} for {expected:?}"),
        }
    }
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
        ("{{ 'abc'.count('') }}", "everywhere"),
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
    ] {
        cases.push((grow(expr), expected));
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
    // As large as of the threads that load models.
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
    let found = template.render_within(&messages(), limit);
    assert_eq!(found, Err(TemplateError::TooLate { limit }));
    assert!(start.elapsed() < Duration::from_secs(5));
}
