//! Attention against its definition, and the nodes that are left alone.

mod node;

use std::ptr;

use llama_cpp_sys_2 as sys;
use proptest::prelude::*;

use super::*;
use crate::llama::exp::IS_FUSED;
use node::{Node, Random, Shape, decoded};
use strip::Strip;

fn shapes() -> impl Strategy<Value = Shape> {
    let numbers = prop_oneof![
        Just((64, 64)),
        Just((128, 128)),
        Just((192, 128)),
        Just((32, 64)),
        Just((96, 80)),
    ];
    let kinds = prop_oneof![
        Just(sys::GGML_TYPE_F16),
        Just(sys::GGML_TYPE_F32),
        Just(sys::GGML_TYPE_BF16),
        Just(sys::GGML_TYPE_Q8_0),
        Just(sys::GGML_TYPE_Q4_0),
    ];
    // Q8_0 and Q4_0 hold their numbers in blocks of 32.
    let numbers = (numbers, kinds).prop_filter("whole blocks", |((n, n_values), kind)| {
        [*n, *n_values].iter().all(|n| n % 32 == 0)
            || [sys::GGML_TYPE_F16, sys::GGML_TYPE_F32, sys::GGML_TYPE_BF16].contains(kind)
    });
    let rows = (1..5_usize).prop_flat_map(|n| prop::collection::vec(1..=n, 1..40));
    let softcap = prop_oneof![Just(0.0_f32), Just(5.0)];
    let size = (1..4_usize, 1..20_usize, 1..400_usize, 1..3_usize);
    (numbers, rows, softcap, size, any::<bool>(), any::<u64>()).prop_map(
        |(((n_numbers, n_values), kind), mut rows, softcap, size, has_sinks, seed)| {
            rows.sort_unstable();
            Shape {
                n_numbers,
                n_values,
                n_groups: size.0,
                n_heads_per_group: size.1,
                n_cells: size.2,
                n_streams: size.3,
                rows,
                kind,
                softcap,
                has_sinks,
                seed,
            }
        },
    )
}

proptest! {
    #[test]
    fn it_is_what_the_definition_says(shape in shapes(), n_threads in 1..5) {
        for instructions in Instructions::here() {
            let attention = Attention::with(instructions, n_threads as u32, true);
            let mut node = Node::new(&shape);
            prop_assert!(node.ask(&attention));
            node.compute(&attention, n_threads);
            prop_assert!(node.worst_error() < 2e-5, "{instructions:?}: {}", node.worst_error());
        }
    }
}

proptest! {
    #[test]
    fn neighbours_and_places_change_no_bit(
        shape in shapes(),
        first in 0..40_usize,
        n_more in 0..400_usize,
    ) {
        let shape = Shape { n_streams: 1, ..shape };
        let mut random = Random(shape.seed);
        let mut places: Vec<usize> = (0..shape.n_cells + n_more).collect();
        for at in (1..places.len()).rev() {
            places.swap(at, random.below(at + 1));
        }
        let first = first % shape.rows.len();
        let n_numbers = shape.n_heads() * shape.n_values;
        let mut results = Vec::new();
        for instructions in Instructions::here() {
            let attention = Attention::with(instructions, 1, true);
            let mut node = Node::new(&shape);
            let mut alone = node.moved(&shape, &places, first..first + 1);
            prop_assert!(node.ask(&attention));
            node.compute(&attention, 1);
            let attention = Attention::with(instructions, 1, true);
            alone.tell_positions(&attention, &places[..shape.n_cells]);
            prop_assert!(alone.ask(&attention));
            alone.compute(&attention, 1);
            let [found, expected] = [&alone.out[..], &node.out[first * n_numbers..][..n_numbers]]
                .map(|numbers| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>());
            prop_assert_eq!(&found, &expected);
            if IS_FUSED || instructions != Instructions::Scalar {
                results.push(found);
            }
        }
        prop_assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

fn small() -> Shape {
    Shape {
        n_numbers: 64,
        n_values: 64,
        n_groups: 1,
        n_heads_per_group: 2,
        n_cells: 100,
        n_streams: 1,
        rows: vec![1, 1, 2],
        kind: sys::GGML_TYPE_F16,
        softcap: 0.0,
        has_sinks: false,
        seed: 1,
    }
}

/// Also on those that this test does not run on: the numbers are those of all of them.
#[test]
fn processors_agree_to_the_bit() {
    let mut shapes = Vec::new();
    for kind in [sys::GGML_TYPE_F16, sys::GGML_TYPE_F32] {
        // Few rows and many, which are computed in two ways, and cells that fill no tile.
        for (n_heads_per_group, n_cells) in [(1, 7), (2, 100), (5, 200)] {
            shapes.push(Shape {
                n_values: 80,
                n_heads_per_group,
                n_cells,
                kind,
                ..small()
            });
        }
    }
    for instructions in Instructions::here() {
        // FNV-1a.
        let mut hash = 0xCBF2_9CE4_8422_2325_u64;
        for shape in &shapes {
            let attention = Attention::with(instructions, 1, true);
            let mut node = Node::new(shape);
            assert!(node.ask(&attention));
            node.compute(&attention, 1);
            for byte in node.out.iter().flat_map(|number| number.to_le_bytes()) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
            }
        }
        let expected = match (IS_FUSED, instructions) {
            (true, _) => 0x400F_15FB_C5BF_6251,
            (false, Instructions::Scalar) => 0xBA9C_720D_16C1_1AC5,
            (false, _) => 0xFA80_D504_ED28_E14D,
        };
        assert_eq!(hash, expected, "{instructions:?}: {hash:#X}");
    }
}

/// The whole range of half precision.
fn check_halves<S: Strip>(here: S::Here) {
    for first in (0..=u16::MAX).step_by(STRIP) {
        let halves: [u16; STRIP] = std::array::from_fn(|at| first + at as u16);
        let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_ne_bytes()).collect();
        let mut found = [0.0; STRIP];
        const { assert!(S::N == STRIP) };
        S::call(here, || {
            // SAFETY: the array has `STRIP` numbers.
            unsafe { S::load_half(here, halves.as_ptr()) }.put(&mut found);
        });
        let expected = decoded(sys::GGML_TYPE_F16, &bytes, STRIP);
        for (found, expected) in found.into_iter().zip(expected) {
            let is_same = found.to_bits() == expected.to_bits();
            assert!(
                is_same || found.is_nan() && expected.is_nan(),
                "{found} {expected}"
            );
        }
    }
}

#[test]
fn every_number_in_half_precision_is_read() {
    for instructions in Instructions::here() {
        match instructions {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(here) => check_halves::<x86::Avx512>(here),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(here) => check_halves::<x86::Avx2>(here),
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => check_halves::<neon::Neon>(()),
            Instructions::Scalar => check_halves::<[f32; STRIP]>(()),
        }
    }
}

/// llama.cpp uses a graph again with other masks at the same place.
#[test]
fn what_was_found_of_a_mask_is_forgotten_at_the_next_step() {
    for instructions in Instructions::here() {
        let attention = Attention::with(instructions, 1, true);
        let mut node = Node::new(&small());
        assert!(node.ask(&attention));
        node.compute(&attention, 1);
        let other = Node::new(&Shape { seed: 2, ..small() });
        for (source, other) in node.sources.iter_mut().zip(&other.sources) {
            source.bytes.copy_from_slice(&other.bytes);
        }
        node.expected = other.expected;
        assert!(node.ask(&attention));
        node.compute(&attention, 1);
        assert!(node.worst_error() < 2e-5, "{}", node.worst_error());
    }
}

/// A panic must not get into llama.cpp: the step is lost, the process is not.
#[test]
fn a_panic_is_a_failure_that_is_told_once() {
    let attention = Attention::new(1, true);
    let mut node = Node::new(&small());
    assert!(node.ask(&attention));
    let user_data = ptr::from_ref(&*attention).cast_mut().cast();
    // SAFETY: the node was replaced, its sources are there, and nobody else looks at them; a second thread has no
    // place to compute in.
    unsafe { compute(&raw mut node.node, 1, 2, user_data) };
    assert!(attention.take_failure());
    assert!(!attention.take_failure());
    node.compute(&attention, 1);
    assert!(node.worst_error() < 2e-5, "{}", node.worst_error());
}

#[test]
fn a_node_of_another_kind_stays_as_it_is() {
    let attention = Attention::new(1, true);
    let changes: [fn(&mut Node); 4] = [
        // Scores that fall with the distance.
        |node| node.node.op_params[1] = 8.0_f32.to_bits().cast_signed(),
        |node| node.node.src[3] = ptr::null_mut(),
        |node| node.sources[3].tensor.type_ = sys::GGML_TYPE_F32,
        // Values that lie number by number.
        |node| node.sources[2].tensor.nb[0] = 200,
    ];
    for (case, change) in changes.into_iter().enumerate() {
        let mut node = Node::new(&small());
        change(&mut node);
        assert!(!node.ask(&attention), "{case}");
    }
    let mut node = Node::new(&Shape {
        n_numbers: 40,
        ..small()
    });
    assert!(!node.ask(&attention));
}
