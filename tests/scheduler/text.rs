//! From pieces of bytes to text events: characters, stop strings, and what is kept back.

use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::fake::{find_first_stop, n_whole_bytes};
use triton_llm::engine::{
    Ended, FinishReason, Limits, NewSequence, Sampled, Scheduler, SequenceId, Token,
};

/// Text shown after each piece, and why it ended.
#[derive(Debug, PartialEq)]
struct Shown {
    texts: Vec<String>,
    reason: Option<FinishReason>,
    n_completion: u32,
}

/// Feeds `pieces` to a lone sequence, `None` being the end token, until it finishes.
fn feed(pieces: &[Option<&[u8]>], stop: &[String], max_tokens: Option<u32>) -> Shown {
    let now = Instant::now();
    let sequence = SequenceId(1);
    let mut scheduler = Scheduler::new(Limits::default());
    let new = NewSequence {
        max_tokens,
        stop: stop.to_vec(),
        ..NewSequence::new(sequence, vec![Token(1)])
    };
    scheduler.submit(new).expect("one token fits");
    let mut shown = Shown {
        texts: Vec::new(),
        reason: None,
        n_completion: 0,
    };
    for piece in pieces {
        let plan = scheduler.schedule(now);
        assert_eq!(plan.rows.len(), 1);
        let sampled = Sampled {
            sequence,
            token: Token(2),
            piece: piece.unwrap_or(b"never shown").to_vec(),
            end: piece.is_none(),
        };
        let events = scheduler.apply(&[sampled], now);
        let [event] = &events[..] else {
            panic!("not one event of one step: {events:?}");
        };
        let [chosen] = &event.chosen[..] else {
            panic!("not one token of one sample: {event:?}");
        };
        assert_eq!((event.sequence, chosen.token), (sequence, Token(2)));
        assert_eq!(event.started, shown.texts.is_empty());
        shown.texts.push(chosen.text.clone());
        if let Some(Ended { reason, usage }) = event.end {
            shown.reason = Some(reason);
            shown.n_completion = usage.completion_tokens;
            assert_eq!(scheduler.stats().n_used_cells, 0);
            break;
        }
    }
    shown
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

/// `pieces` ends with the end token if `reason` is `Stop` and no stop string occurs, else with the
/// last token that `max_tokens` allows.
fn check(pieces: &[&[u8]], stop: &[&str], texts: &[&str], reason: FinishReason) {
    let mut with_end: Vec<Option<&[u8]>> = pieces.iter().copied().map(Some).collect();
    let shown = match reason {
        FinishReason::Stop => {
            with_end.push(None);
            feed(&with_end, &strings(stop), None)
        }
        FinishReason::Length => feed(&with_end, &strings(stop), Some(pieces.len() as u32)),
    };
    assert_eq!(shown.texts, texts, "{pieces:?} {stop:?}");
    assert_eq!(shown.reason, Some(reason), "{pieces:?} {stop:?}");
    assert_eq!(shown.n_completion as usize, texts.len());
}
use FinishReason::{Length, Stop};

#[test]
fn characters_are_never_split() {
    check(&[b"a", b"bc"], &[], &["a", "bc", ""], Stop);
    check(
        &[b"\xE2", b"\x82", b"\xACx"],
        &[],
        &["", "", "\u{20AC}x"],
        Length,
    );
    check(
        &[b"x\xF0\x9F", b"", b"\x98\x80"],
        &[],
        &["x", "", "\u{1F600}"],
        Length,
    );
    check(&[], &[], &[""], Stop);
}

#[test]
fn bytes_that_are_no_text_become_replacement_characters() {
    check(&[b"\xFF", b"a"], &[], &["\u{FFFD}", "a"], Length);
    check(&[b"\xE2\x82", b"a"], &[], &["", "\u{FFFD}a"], Length);
    check(
        &[b"\xE2\x82", b"\xE2"],
        &[],
        &["", "\u{FFFD}\u{FFFD}"],
        Length,
    );
    check(&[b"a\xE2\x82"], &[], &["a\u{FFFD}"], Length);
    check(&[b"a\xE2\x82"], &[], &["a", "\u{FFFD}"], Stop);
    check(
        &[b"\xED", b"\xA0\x80"],
        &[],
        &["", "\u{FFFD}\u{FFFD}\u{FFFD}"],
        Length,
    );
}

#[test]
fn a_stop_string_is_cut_off_with_what_follows() {
    check(&[b"one END two"], &["END"], &["one "], Stop);
    check(
        &[b"one E", b"N", b"D two"],
        &["END"],
        &["one ", "", ""],
        Stop,
    );
    check(&[b"END"], &["END"], &[""], Stop);
    check(&[b"a\xE2\x82", b"\xACb"], &["\u{20AC}"], &["a", ""], Stop);
    check(&[b"aab", b"aac"], &["aabaac"], &["", ""], Stop);
    check(&[b"aaab"], &["aab"], &["a"], Stop);
    check(&[b"abababc"], &["ababc"], &["ab"], Stop);
}

#[test]
fn what_may_become_a_stop_string_is_kept_back_until_it_cannot() {
    check(&[b"E", b"N", b"X"], &["END"], &["", "", "ENX"], Length);
    check(
        &[b"E", b"E", b"EN", b"E"],
        &["END"],
        &["", "E", "E", "ENE"],
        Length,
    );
    check(&[b"one EN"], &["END"], &["one ", "EN"], Stop);
    check(&[b"one EN"], &["END"], &["one EN"], Length);
    check(&[b"EN\xE2"], &["END"], &["EN\u{FFFD}"], Length);
    check(&[b"aab", b"aab"], &["aabaac"], &["", "aab", "aab"], Stop);
}

#[test]
fn of_several_stop_strings_the_one_complete_first_wins() {
    check(&[b"abcd"], &["abcd", "bc"], &["a"], Stop);
    check(&[b"a", b"b", b"c"], &["abcd", "bc"], &["", "", "a"], Stop);
    check(&[b"xabc"], &["bc", "abc"], &["x"], Stop);
    check(&[b"xabc"], &["abc", "bc"], &["x"], Stop);
    check(&[b"abx"], &["", "b"], &["a"], Stop);
}

#[test]
fn stop_wins_over_length() {
    let shown = feed(&[Some(b"a"), Some(b"END")], &strings(&["END"]), Some(2));
    assert_eq!(shown.reason, Some(Stop));
    let shown = feed(&[Some(b"a"), None], &[], Some(2));
    assert_eq!(shown.reason, Some(Stop));
    // The stop string is complete only with what the end of the text makes of its last bytes.
    let shown = feed(&[Some(b"a\xE2")], &strings(&["\u{FFFD}"]), Some(1));
    assert_eq!((shown.texts, shown.reason), (strings(&["a"]), Some(Stop)));
}

#[test]
fn the_words_of_the_reasons_are_those_of_openai() {
    assert_eq!((Stop.as_str(), Length.as_str()), ("stop", "length"));
}

/// Bytes with many characters whole, many broken, and many that are none.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        any::<char>().prop_map(|c| c.to_string().into_bytes()),
        (any::<char>(), 1..4_usize).prop_map(|(c, n_bytes)| {
            let bytes = c.to_string().into_bytes();
            bytes[..n_bytes.min(bytes.len())].to_vec()
        }),
        vec(any::<u8>(), 0..3),
        vec(0x80..0xC0_u8, 1..3),
    ];
    vec(part, 0..24).prop_map(|parts| parts.concat())
}

fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<Option<&'a [u8]>> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let starts = std::iter::once(0).chain(ends.clone());
    starts
        .zip(ends)
        .map(|(start, end)| Some(&bytes[start..end]))
        .collect()
}

/// What may be shown of `bytes` while more may come, and whether a stop string was found.
fn shown_so_far(bytes: &[u8], stop: &[String]) -> (String, bool) {
    let text = String::from_utf8_lossy(&bytes[..n_whole_bytes(bytes)]);
    if let Some(cut) = find_first_stop(&text, stop) {
        return (text[..cut].to_owned(), true);
    }
    let may_become_stop = |start: &usize| {
        let end = &text.as_bytes()[*start..];
        stop.iter().any(|stop| stop.as_bytes().starts_with(end))
    };
    let cut = (0..text.len()).find(may_become_stop).unwrap_or(text.len());
    (text[..cut].to_owned(), false)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn pieces_of_any_bytes_give_the_text_of_all_bytes(
        bytes in bytes(),
        cuts in vec(any::<usize>(), 0..40),
        has_end in any::<bool>(),
    ) {
        let mut pieces = cut(&bytes, &cuts);
        let max_tokens = pieces.len() as u32;
        if has_end {
            pieces.push(None);
        }
        let shown = feed(&pieces, &[], (!has_end).then_some(max_tokens));
        prop_assert_eq!(shown.texts.concat(), String::from_utf8_lossy(&bytes));
        prop_assert_eq!(shown.reason, Some(if has_end { Stop } else { Length }));
        prop_assert_eq!(shown.n_completion as usize, pieces.len());
    }

    #[test]
    fn stop_strings_are_found_however_the_text_is_cut(
        text in "[ab\u{20AC}]{0,40}",
        stop in vec("[ab\u{20AC}]{0,6}", 0..4),
        cuts in vec(any::<usize>(), 0..24),
        has_end in any::<bool>(),
    ) {
        let mut pieces = cut(text.as_bytes(), &cuts);
        let n_pieces = pieces.len();
        if has_end {
            pieces.push(None);
        }
        let shown = feed(&pieces, &stop, (!has_end).then_some(n_pieces as u32));
        let found = find_first_stop(&text, &stop);
        prop_assert_eq!(shown.texts.concat(), &text[..found.unwrap_or(text.len())]);
        let is_stop = has_end || found.is_some();
        prop_assert_eq!(shown.reason, Some(if is_stop { Stop } else { Length }));

        // And at no time is less shown, or more, than what is certain.
        let mut bytes = Vec::new();
        for (piece_idx, piece) in pieces[..n_pieces].iter().flatten().enumerate() {
            bytes.extend_from_slice(piece);
            let (expected, is_found) = shown_so_far(&bytes, &stop);
            if is_found || piece_idx + 1 == n_pieces {
                break;
            }
            prop_assert_eq!(shown.texts[..=piece_idx].concat(), expected);
        }
    }
}
