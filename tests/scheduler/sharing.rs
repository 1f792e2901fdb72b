//! Who shares whose tokens in the cache: small stories and the plans that must follow.

use std::time::Instant;

use crate::fake::{FakeRunner, sample_x};
use crate::show::show_plan;
use triton_llm::engine::{
    Limits, NewSequence, Scheduler, Scope, SequenceId, Sharing, Token, Usage,
};

pub struct Story {
    pub scheduler: Scheduler,
    runner: FakeRunner,
    now: Instant,
    finished: Vec<(u64, Usage)>,
}

impl Story {
    fn limits(n_slots: usize, n_cells: usize, n_batch: usize, sharing: Sharing) -> Limits {
        Limits {
            n_slots,
            n_kept: 2,
            n_cells,
            sharing,
            n_batch,
            ..Limits::default()
        }
    }

    fn new(n_slots: usize, n_cells: usize, n_batch: usize, sharing: Sharing) -> Self {
        Self::within(Self::limits(n_slots, n_cells, n_batch, sharing))
    }

    pub fn within(limits: Limits) -> Self {
        Self {
            scheduler: Scheduler::new(limits),
            runner: FakeRunner::new(&limits, sample_x),
            now: Instant::now(),
            finished: Vec::new(),
        }
    }

    pub fn submit(&mut self, id: u64, prompt: &[Token], max_tokens: u32) {
        self.submit_in(Scope::default(), id, prompt, max_tokens);
    }

    fn submit_in(&mut self, scope: Scope, id: u64, prompt: &[Token], max_tokens: u32) {
        let new = NewSequence {
            scope,
            max_tokens: Some(max_tokens),
            ..NewSequence::new(SequenceId(id), prompt.to_vec())
        };
        self.runner.open(new.id, scope);
        self.scheduler.submit(new).expect("the story admits it");
    }

    pub fn step(&mut self, expected: &str) {
        assert_eq!(self.run(), expected);
    }

    pub fn run(&mut self) -> String {
        let plan = self.scheduler.schedule(self.now);
        let out = self.runner.run(&plan);
        for event in self.scheduler.apply(&out, self.now) {
            if let Some(ended) = event.end {
                self.finished.push((event.sequence.0, ended.usage));
            }
        }
        show_plan(&plan)
    }

    pub fn check_cells(&self, n_used: usize, n_cached: usize) {
        let stats = self.scheduler.stats();
        let found = (stats.n_used_cells, stats.n_cached_cells);
        assert_eq!(found, (n_used, n_cached));
    }

    pub fn finished(&self, id: u64) -> Option<Usage> {
        let finished = self.finished.iter().find(|(finished, _)| *finished == id);
        finished.map(|(_, usage)| *usage)
    }

    pub fn cached_tokens(&self, id: u64) -> u32 {
        self.finished(id).expect("it has finished").cached_tokens
    }
}

/// `n_common` tokens that other prompts begin with too, then `n_own` of its own.
pub fn prompt(id: i32, n_common: i32, n_own: i32) -> Vec<Token> {
    let own = (0..n_own).map(|idx| Token(id * 1000 + idx));
    (500..500 + n_common).map(Token).chain(own).collect()
}

#[test]
fn what_an_ended_sequence_computed_is_shared() {
    let mut story = Story::new(2, 256, 64, Sharing::Prefix);
    story.submit(1, &prompt(1, 20, 4), 2);
    story.step("1@0:0-23*");
    story.step("1@0:24*");
    story.check_cells(0, 25);
    story.submit(2, &prompt(2, 20, 3), 1);
    story.step("0>1[20] 2@1:20-22*");
    assert_eq!((story.cached_tokens(1), story.cached_tokens(2)), (0, 20));
    story.check_cells(0, 28);
    assert!(story.scheduler.is_idle());
}

/// Who has come back once is kept as long as there are cells, in more chats than slots, too.
#[test]
fn chats_that_take_turns_find_what_they_had() {
    let limits = Limits {
        n_kept: 6,
        ..Story::limits(2, 1024, 64, Sharing::Prefix)
    };
    let mut story = Story::within(limits);
    let mut chats: Vec<Vec<Token>> = (1..=4).map(|id| prompt(id, 0, 30)).collect();
    for turn in 0..6 {
        for (chat, said) in chats.iter_mut().enumerate() {
            let id = 10 * turn + chat as u64;
            let n_before = said.len();
            if turn > 0 {
                let new = (0..30).map(|idx| Token(-1000 * id as i32 - idx));
                said.extend(new);
            }
            story.submit(id, said, 1);
            while !story.scheduler.is_idle() {
                story.run();
            }
            if turn > 0 {
                assert_eq!(story.cached_tokens(id), n_before as u32, "{turn} {chat}");
            }
        }
    }
}

#[test]
fn the_next_turn_of_a_chat_goes_on_in_its_slot() {
    let mut story = Story::new(2, 256, 64, Sharing::Prefix);
    let mut chat = prompt(1, 0, 24);
    story.submit(1, &chat, 3);
    story.step("1@0:0-23*");
    story.step("1@0:24*");
    story.step("1@0:25*");
    // What `sample_x` gives after 24, 25 and 26 tokens; the last one was not computed.
    chat.extend([Token(24), Token(25), Token(26), Token(9)]);
    story.submit(2, &chat, 1);
    story.step("2@0:26-27*");
    assert_eq!(story.cached_tokens(2), 26);
}

#[test]
fn a_running_sequence_shares_too_and_the_last_token_is_always_computed() {
    let mut story = Story::new(3, 256, 64, Sharing::Prefix);
    story.submit(1, &prompt(1, 20, 0), 9);
    story.step("1@0:0-19*");
    story.submit(2, &prompt(2, 20, 0), 9);
    story.submit(3, &prompt(3, 18, 2), 9);
    // Of several slots with the same tokens any will do.
    story.step("0>1[19] 1>2[18] 1@0:20* 2@1:19* 3@2:18-19*");
    story.check_cells(21 + 1 + 2, 0);
}

#[test]
fn short_beginnings_are_computed_again() {
    let mut story = Story::new(2, 256, 64, Sharing::Prefix);
    story.submit(1, &prompt(1, 15, 10), 1);
    story.step("1@0:0-24*");
    story.submit(2, &prompt(2, 15, 1), 1);
    story.step("2@1:0-15*");
    assert_eq!(story.cached_tokens(2), 0);
}

#[test]
fn who_waits_for_a_beginning_is_overtaken_and_then_shares_it() {
    let mut story = Story::new(3, 256, 20, Sharing::Prefix);
    story.submit(1, &prompt(1, 40, 1), 9);
    story.submit(2, &prompt(2, 40, 2), 9);
    story.submit(3, &prompt(3, 0, 4), 9);
    story.step("1@0:0-15 3@1:0-3*");
    story.step("3@1:4* 1@0:16-34");
    story.step("3@1:5* 1@0:35-40*");
    story.step("0>2[40] 1@0:41* 3@1:6* 2@2:40-41*");
}

#[test]
fn a_follower_takes_over_from_a_leader_that_is_cancelled() {
    let mut story = Story::new(3, 256, 20, Sharing::Prefix);
    story.submit(1, &prompt(1, 60, 1), 9);
    story.submit(2, &prompt(2, 60, 2), 9);
    story.submit(3, &prompt(3, 60, 2), 9);
    story.step("1@0:0-19");
    assert!(story.scheduler.cancel(SequenceId(1)));
    story.step("2@0:20-39");
    story.step("2@0:40-59");
    story.step("0>1[60] 2@0:60-61* 3@1:60-61*");
}

#[test]
fn the_least_recently_used_tokens_are_evicted_first_and_from_their_end() {
    let mut story = Story::new(2, 300, 300, Sharing::Prefix);
    let mut chat = prompt(1, 0, 100);
    story.submit(1, &chat, 1);
    story.step("1@0:0-31");
    story.step("1@0:32-79");
    story.step("1@0:80-99*");
    chat.extend(prompt(9, 0, 20));
    story.submit(2, &chat, 1);
    story.step("2@0:100-119*");
    story.submit(3, &prompt(3, 0, 100), 1);
    story.step("3@1:0-71");
    story.step("3@1:72-99*");
    // The chat is of use again, so that 3 is older.
    chat.extend(prompt(8, 0, 5));
    story.submit(4, &chat, 1);
    story.step("4@0:120-124*");
    story.check_cells(0, 225);
    story.submit(5, &prompt(5, 0, 90), 1);
    // What 3 had leaves its slot to 5 and is cut.
    // 15 cells are missing, but an eviction is worth its price only for 64.
    story.step("1>2[100] -1 2[36] 5@1:0-89*");
}

#[test]
fn of_what_nobody_has_shared_yet_little_is_kept_but_always_the_latest() {
    let mut story = Story::new(1, 200, 200, Sharing::Prefix);
    let mut run = |id: u64, prompt: &[Token]| {
        story.submit(id, prompt, 1);
        while !story.scheduler.is_idle() {
            let plan = story.scheduler.schedule(story.now);
            let out = story.runner.run(&plan);
            story.scheduler.apply(&out, story.now);
        }
        story.scheduler.stats().n_cached_cells
    };
    // One in four cells while nobody runs: 50.
    assert_eq!(run(1, &prompt(1, 0, 100)), 100);
    assert_eq!(run(2, &prompt(2, 0, 20)), 20);
    assert_eq!(run(3, &prompt(3, 0, 30)), 50);
    assert_eq!(run(4, &prompt(4, 0, 25)), 45);
    // What has been shared counts no more, the token that was computed again does.
    assert_eq!(run(5, &prompt(4, 0, 25)), 46);
    assert_eq!(run(6, &prompt(6, 0, 49)), 25 + 1 + 49);
}

#[test]
fn a_memory_that_cannot_be_cut_is_shared_whole_or_not_at_all() {
    let mut story = Story::new(2, 400, 64, Sharing::Whole);
    let chat = prompt(1, 20, 4);
    story.submit(1, &chat, 1);
    story.step("1@0:0-23*");
    story.submit(2, &prompt(2, 20, 4), 1);
    story.step("2@1:0-23*");
    let mut next = chat.clone();
    next.extend(prompt(3, 0, 2));
    story.submit(3, &next, 9);
    story.step("3@0:24-25*");
    let mut more = next.clone();
    more.push(Token(26));
    more.push(Token(7));
    story.submit(4, &more, 9);
    // Sequence 3 goes on from 26 tokens, and so does 4, which has them all.
    // What 2 had leaves its slot to 4.
    story.step("1>2[24] -1 0>1[26] 3@0:26* 4@1:26-27*");
    // Too few cells are left: the whole slot of 2 goes.
    story.scheduler.cancel(SequenceId(4));
    story.submit(5, &prompt(5, 0, 360), 1);
    story.step("1>3[28] -1 -2 3@0:27* 5@1:0-34");
}

#[test]
fn nothing_is_shared_where_nothing_may_be() {
    let mut story = Story::new(2, 100, 64, Sharing::None);
    for id in [1, 2] {
        story.submit(id, &prompt(0, 0, 24), 1);
    }
    story.step("1@0:0-23* 2@1:0-7");
    story.step("-0 2@1:8-23*");
    story.step("-1");
    story.check_cells(0, 0);
}

#[test]
fn scopes_share_nothing_with_each_other() {
    let (base, adapter) = (Scope::default(), Scope(1));
    let mut story = Story::new(4, 256, 32, Sharing::Prefix);
    let chat = prompt(0, 40, 0);
    story.submit_in(base, 1, &chat, 9);
    story.submit_in(adapter, 2, &chat, 9);
    story.submit_in(adapter, 3, &chat, 9);
    // Nobody waits for a beginning of another scope, but 3 does for one of its own.
    story.step("1@0:0-15 2@1:0-15");
    story.step("1@0:16-31 2@1:16-31");
    story.step("1@0:32-39* 2@1:32-39*");
    story.step("1>2[39] 1@0:40* 2@1:40* 3@2:39*");
    // What has ended is found in its scope only, too.
    for id in [1, 2, 3] {
        assert!(story.scheduler.cancel(SequenceId(id)));
    }
    story.submit_in(base, 4, &chat, 1);
    story.submit_in(adapter, 5, &chat, 1);
    story.submit_in(Scope(2), 6, &chat, 1);
    while !story.scheduler.is_idle() {
        story.run();
    }
    let cached = [4, 5, 6].map(|id| story.cached_tokens(id));
    assert_eq!(cached, [39, 39, 0]);
}
