//! What a trial's parent makes of a process that dies, hangs or says something.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{self, Command};

use super::process::Outcome;
use super::*;

/// A library that is a program with this body, in a folder of its own.
fn program(name: &str, body: &str) -> (PathBuf, Program) {
    let folder = env::temp_dir().join(format!("triton-llm-trial-{name}-{}", process::id()));
    fs::create_dir_all(&folder).expect("the folder for temporary files is writable");
    let source = folder.join("program.c");
    let text = format!(
        "#include <signal.h>\n#include <string.h>\n#include <unistd.h>\n\
         static void say(int to, const char *text) {{ if (write(to, text, strlen(text)) < 0) _exit(9); }}\n\
         __attribute__((force_align_arg_pointer)) void start(void) {{ {body} _exit(0); }}\n"
    );
    fs::write(&source, text).expect("the folder is writable");
    let library = folder.join("program.so");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-nostartfiles", "-Wl,-e,start", "-o"])
        .args([&library, &source])
        .status();
    assert!(built.is_ok_and(|status| status.success()));
    let program = Program::new(&library);
    (folder, program)
}

fn trial(subject: Subject) -> Trial {
    Trial {
        subject,
        repack: true,
        context: ContextParams::default(),
    }
}

fn code() -> Trial {
    trial(Subject::Code {
        kinds: BTreeSet::from([2]),
        has_experts: false,
    })
}

/// What `body` leads to, in short.
fn outcome(name: &str, body: &str) -> String {
    let (folder, program) = program(name, body);
    let outcome = program.run(&code(), Duration::from_secs(2));
    fs::remove_dir_all(folder).expect("it is there");
    match outcome {
        Outcome::Passed => "passed".to_owned(),
        Outcome::Refused => "refused".to_owned(),
        Outcome::NotStarted(error) => format!("not started: {error}"),
        Outcome::Died {
            ended,
            stage,
            last_words,
        } => format!("{ended} while {stage}: {last_words}"),
    }
}

#[test]
fn a_process_that_dies_is_told_from_one_that_passes() {
    for (name, body, expected) in [
        ("passes", r#"say(1, "stage a\npassed\n");"#, "passed"),
        ("refuses", r#"say(1, "stage a\nrefused\n");"#, "refused"),
        (
            "aborts",
            r#"say(1, "stage it loaded\n"); say(2, "one\n\ntwo\nthree\nfour\n"); raise(SIGABRT);"#,
            "ended with signal 6 (it gave up) while it loaded: two / three / four",
        ),
        (
            "silent",
            "raise(SIGSEGV);",
            "ended with signal 11 (memory that is not its own) while it started: none",
        ),
        (
            "early",
            r#"say(1, "stage it computed\n"); _exit(3);"#,
            "ended with status 3 while it computed: none",
        ),
        (
            "late",
            r#"say(1, "stage it waited\n"); pause();"#,
            "had not ended after 2 seconds while it waited: none",
        ),
    ] {
        assert_eq!(outcome(name, body), expected);
    }
}

#[test]
fn a_library_that_is_not_there_is_said_to_have_died() {
    let program = Program::new(Path::new("/nowhere/libtriton_llm.so"));
    let Outcome::Died {
        ended, last_words, ..
    } = program.run(&code(), PATIENCE)
    else {
        panic!("it cannot have run");
    };
    assert_eq!(ended, Ending::Status(127));
    assert!(
        last_words.contains("/nowhere/libtriton_llm.so"),
        "{last_words}"
    );
}

#[test]
fn an_error_names_the_file_or_the_code_and_what_to_do() {
    let (folder, program) = program("named", r#"say(1, "stage it computed\n"); raise(SIGILL);"#);
    let file = trial(Subject::File {
        path: PathBuf::from("/m/1/model.gguf"),
        vocab_only: false,
    });
    let error = file
        .pass(&program, PATIENCE)
        .map_err(|error| error.to_string());
    let expected = "model file '/m/1/model.gguf': a trial in a process of its own ended with signal 4 \
                    (an instruction that the processor does not have or take) while it computed, as the \
                    server would have. llama.cpp's last words: none";
    assert_eq!(error, Err(expected.to_owned()));
    backend::init().expect("llama.cpp is there");
    let error = code()
        .pass(&program, PATIENCE)
        .map_err(|error| error.to_string());
    let error = error.expect_err("it died");
    for part in ["for this processor (", "SSE3", "does not work on it: "] {
        assert!(error.contains(part), "{error}");
    }
    fs::remove_dir_all(folder).expect("it is there");
}

#[test]
fn what_helps_is_found_out_by_one_more_trial() {
    // The arguments lie above the stack pointer; the trial is the last of them.
    let body = "char command[4096]; int file = 0; (void)file; (void)command; \
                extern int open(const char *, int, ...); \
                file = open(\"/proc/self/cmdline\", 0); long n = read(file, command, sizeof command); \
                for (long i = 0; i + 14 < n; i++) \
                  if (!memcmp(command + i, \"\\\"repack\\\":false\", 14)) say(1, \"passed\\n\"), _exit(0); \
                raise(SIGILL);";
    let (folder, program) = program("repack", body);
    let error = code()
        .pass(&program, PATIENCE)
        .map_err(|error| error.to_string());
    let error = error.expect_err("it died");
    let advice = "set the parameter 'repack' to \"false\", with which it passes";
    assert!(error.contains(advice), "{error}");
    fs::remove_dir_all(folder).expect("it is there");
}
