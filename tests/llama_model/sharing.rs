//! Stories of requests on models of each kind: what they share must not show in their answers.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use triton_llm::engine::{Limits, NewSequence, Scheduler, SequenceId, Sharing, Token, Usage};
use triton_llm::llama::{Model, Runner};
use triton_llm::protocol::SamplingParams;

use crate::kinds::{KINDS, Kind, runner, tokens};

/// Something that happens in a story.
enum Act {
    /// A request comes: its number, its prompt, and how many tokens it answers.
    Ask(u64, &'static [Part], u32),
    /// This many steps run.
    Steps(usize),
    /// A request's client goes away.
    Cancel(u64),
    /// All requests come to their end.
    Finish,
}

/// A part of a prompt.
enum Part {
    /// Tokens of their own: the same for the same first number.
    Own(u64, usize),
    /// The prompt of another request and the first tokens of its answer.
    Chat(u64, usize),
}

use Act::{Ask, Cancel, Finish, Steps};
use Part::{Chat, Own};

struct Story {
    name: &'static str,
    n_slots: usize,
    n_cells: usize,
    acts: &'static [Act],
    /// A request, and how many tokens of its prompt it shares: where any beginning can be shared,
    /// where whole slots can, and where there are no more slots than requests that run.
    n_cached: &'static [(u64, [u32; 3])],
}

const STORIES: &[Story] = &[
    Story {
        name: "a chat goes on",
        n_slots: 2,
        n_cells: 512,
        acts: &[
            Ask(1, &[Own(1, 40)], 12),
            Finish,
            Ask(2, &[Chat(1, 12), Own(2, 10)], 12),
            Finish,
            Ask(3, &[Chat(2, 12), Own(3, 5)], 12),
            Finish,
        ],
        // The last token of an answer was not computed.
        n_cached: &[(1, [0; 3]), (2, [51; 3]), (3, [73; 3])],
    },
    Story {
        name: "a chat goes on in two ways at once, and from its beginning",
        n_slots: 3,
        n_cells: 512,
        acts: &[
            Ask(1, &[Own(1, 40)], 12),
            Finish,
            Ask(2, &[Chat(1, 12), Own(2, 10)], 12),
            Ask(3, &[Chat(1, 12), Own(3, 3)], 12),
            Finish,
            Ask(4, &[Own(1, 40), Own(4, 20)], 12),
            Finish,
        ],
        n_cached: &[(2, [51; 3]), (3, [51; 3]), (4, [40, 0, 0])],
    },
    Story {
        name: "the same prompt twice",
        n_slots: 2,
        n_cells: 512,
        acts: &[
            Ask(1, &[Own(1, 40)], 12),
            Finish,
            Ask(2, &[Own(1, 40)], 12),
            Finish,
        ],
        n_cached: &[(1, [0; 3]), (2, [39, 0, 0])],
    },
    Story {
        name: "two prompts begin alike",
        n_slots: 2,
        n_cells: 512,
        acts: &[
            Ask(1, &[Own(1, 100), Own(2, 10)], 12),
            Finish,
            Ask(2, &[Own(1, 100), Own(3, 7)], 12),
            Finish,
        ],
        n_cached: &[(1, [0; 3]), (2, [100, 0, 0])],
    },
    Story {
        name: "four at once begin alike and go on as chats",
        n_slots: 4,
        n_cells: 4096,
        acts: &[
            Ask(1, &[Own(1, 100), Own(2, 5)], 12),
            Ask(2, &[Own(1, 100), Own(3, 6)], 12),
            Ask(3, &[Own(1, 100), Own(4, 7)], 12),
            Ask(4, &[Own(1, 100), Own(5, 8)], 12),
            Finish,
            Ask(5, &[Chat(1, 12), Own(6, 4)], 12),
            Ask(6, &[Chat(2, 12), Own(6, 4)], 12),
            Ask(7, &[Chat(3, 12), Own(6, 4)], 12),
            Ask(8, &[Chat(4, 12), Own(6, 4)], 12),
            Finish,
        ],
        n_cached: &[
            (1, [0; 3]),
            (2, [100, 0, 0]),
            (3, [100, 0, 0]),
            (4, [100, 0, 0]),
            (5, [116; 3]),
            (6, [117; 3]),
            (7, [118; 3]),
            (8, [119; 3]),
        ],
    },
    Story {
        name: "what a running request has is shared, and both go on",
        n_slots: 3,
        n_cells: 512,
        acts: &[
            Ask(1, &[Own(1, 30)], 30),
            Steps(5),
            Ask(2, &[Chat(1, 5), Own(2, 6)], 30),
            Ask(3, &[Chat(1, 5), Own(3, 2)], 30),
            Finish,
        ],
        // Five tokens are sampled, four of them computed.
        n_cached: &[(1, [0; 3]), (2, [34; 3]), (3, [34; 3])],
    },
    Story {
        name: "requests are cancelled in the middle of prompt and answer",
        n_slots: 2,
        n_cells: 512,
        acts: &[
            Ask(1, &[Own(1, 60)], 30),
            Steps(1),
            Cancel(1),
            Ask(2, &[Own(1, 60), Own(2, 4)], 30),
            Steps(6),
            Cancel(2),
            Ask(3, &[Chat(2, 5), Own(3, 4)], 12),
            Ask(4, &[Own(1, 60), Own(2, 4)], 12),
            Finish,
        ],
        // The first step of all reads 32 tokens.
        n_cached: &[(3, [69; 3]), (4, [63, 0, 0])],
    },
    Story {
        name: "more chats than run at once",
        n_slots: 2,
        n_cells: 2048,
        acts: &[
            Ask(1, &[Own(1, 30)], 8),
            Ask(2, &[Own(2, 30)], 8),
            Ask(3, &[Own(3, 30)], 8),
            Ask(4, &[Own(4, 30)], 8),
            Finish,
            Ask(5, &[Chat(1, 8), Own(5, 4)], 8),
            Ask(6, &[Chat(4, 8), Own(5, 4)], 8),
            Finish,
        ],
        n_cached: &[(4, [0; 3]), (5, [37, 37, 0]), (6, [37; 3])],
    },
    Story {
        name: "a small cache evicts and preempts",
        n_slots: 3,
        n_cells: 256,
        acts: &[
            Ask(1, &[Own(1, 50), Own(2, 20)], 60),
            Ask(2, &[Own(1, 50), Own(3, 20)], 60),
            Ask(3, &[Own(1, 50), Own(4, 20)], 60),
            Finish,
            Ask(4, &[Chat(1, 60), Own(5, 10)], 20),
            Ask(5, &[Chat(3, 60), Own(6, 10)], 20),
            Finish,
            Ask(6, &[Own(7, 150)], 60),
            Finish,
            Ask(7, &[Chat(6, 60), Own(8, 4)], 20),
            Finish,
        ],
        // Not even with a shared beginning have three the cells for 130 tokens each.
        n_cached: &[(2, [50, 0, 0]), (3, [50, 0, 0]), (6, [0; 3]), (7, [209; 3])],
    },
];

/// Requests that come and go through scheduler and runner.
struct Run {
    runner: Runner,
    scheduler: Scheduler,
    now: Instant,
    prompts: BTreeMap<u64, Vec<Token>>,
    answers: BTreeMap<u64, Vec<Token>>,
    finished: BTreeMap<u64, Usage>,
}

impl Run {
    fn new(model: &Arc<Model>, story: &Story, is_shared: bool) -> Self {
        let runner = runner(model, story.n_slots, story.n_cells, 48);
        let sharing = match is_shared {
            true => runner.sharing(),
            false => Sharing::None,
        };
        let limits = Limits {
            n_slots: story.n_slots,
            n_kept: runner.n_kept(),
            n_cells: runner.n_cells(),
            sharing,
            n_batch: runner.n_batch(),
            ..Limits::default()
        };
        Self {
            scheduler: Scheduler::new(limits),
            runner,
            now: Instant::now(),
            prompts: BTreeMap::new(),
            answers: BTreeMap::new(),
            finished: BTreeMap::new(),
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Ask(id, parts, n_answer) => self.ask(*id, parts, *n_answer),
            Steps(n_steps) => (0..*n_steps).for_each(|_| self.step()),
            Cancel(id) => {
                assert!(self.scheduler.cancel(SequenceId(*id)));
                self.runner.close(SequenceId(*id));
            }
            Finish => {
                while !self.scheduler.is_idle() {
                    self.step();
                }
            }
        }
    }

    fn ask(&mut self, id: u64, parts: &[Part], n_answer: u32) {
        let parts = parts.iter().map(|part| match part {
            Own(seed, n_tokens) => tokens(*seed, *n_tokens),
            Chat(id, n_answer) => [&self.prompts[id][..], &self.answers[id][..*n_answer]].concat(),
        });
        let prompt: Vec<Token> = parts.flatten().collect();
        let greedy = SamplingParams {
            temperature: 0.0,
            ignore_eos: true,
            ..SamplingParams::default()
        };
        let sampler = self
            .runner
            .model()
            .sampler(&greedy, &prompt)
            .expect("every rule can be made");
        self.runner.open(SequenceId(id), sampler);
        self.prompts.insert(id, prompt.clone());
        self.answers.insert(id, Vec::new());
        let new = NewSequence {
            max_tokens: Some(n_answer),
            ..NewSequence::new(SequenceId(id), prompt)
        };
        let submitted = self.scheduler.submit(new);
        submitted.unwrap_or_else(|error| panic!("{error}"));
    }

    fn finished_answers(&self) -> BTreeMap<u64, &[Token]> {
        let finished = self.finished.keys();
        finished.map(|id| (*id, &self.answers[id][..])).collect()
    }

    fn step(&mut self) {
        let plan = self.scheduler.schedule(self.now);
        let out = self.runner.run(&plan);
        let out = out.unwrap_or_else(|error| panic!("{error}"));
        for sampled in &out {
            let answer = self.answers.get_mut(&sampled.sequence.0);
            answer.expect("it was asked for").push(sampled.token);
        }
        for event in self.scheduler.apply(&out, self.now) {
            if let Some(ended) = event.end {
                self.runner.close(event.sequence);
                self.finished.insert(event.sequence.0, ended.usage);
            }
        }
    }
}

#[test]
fn what_is_shared_does_not_show() {
    for kind in &KINDS {
        let model = kind.model();
        for story in STORIES {
            let [alone, shared] = [false, true].map(|is_shared| {
                let mut run = Run::new(&model, story, is_shared);
                story.acts.iter().for_each(|act| run.act(act));
                run
            });
            let told = format!("{}, {}", kind.name, story.name);
            let answers = alone.finished_answers();
            assert_eq!(shared.finished_answers(), answers, "{told}");
            check_variety(&answers, &told);
            assert!(
                alone
                    .finished
                    .values()
                    .all(|usage| usage.cached_tokens == 0)
            );
            check_cached(kind, story, &shared, &told);
        }
    }
}

fn check_cached(kind: &Kind, story: &Story, run: &Run, told: &str) {
    let column = match kind.sharing {
        Sharing::Prefix => 0,
        Sharing::Whole if !kind.has_states => 1,
        _ => 2,
    };
    for (id, n_cached) in story.n_cached {
        let usage = run.finished[id];
        assert_eq!(usage.cached_tokens, n_cached[column], "{told}, {id}");
    }
}

/// Answers that were all alike could not show a difference.
fn check_variety(answers: &BTreeMap<u64, &[Token]>, told: &str) {
    let mut distinct = HashSet::new();
    for (id, answer) in answers {
        let tokens: Vec<i32> = answer.iter().map(|token| token.0).collect();
        let n_tokens = HashSet::<&i32>::from_iter(&tokens).len();
        assert!(n_tokens >= tokens.len() / 3, "{told}, {id}: {tokens:?}");
        distinct.insert(tokens);
    }
    assert!(distinct.len() >= answers.len() / 2, "{told}: {answers:?}");
}
