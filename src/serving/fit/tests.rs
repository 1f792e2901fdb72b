//! The fit on made-up sizes: what is chosen, what gives way first, what is refused.

use proptest::prelude::*;

use super::super::demand::Layer;
use super::*;
use crate::machine::device::DeviceKind;

const GIB: u64 = 1 << 30;

/// 4 layers of 1 GiB with 1 KiB a cell, an output of 1 GiB; the buffers of a step take 1/2 GiB, half of
/// it for the output.
fn demand() -> Demand {
    let output = Layer {
        weights: GIB,
        ..Layer::default()
    };
    let layer = Layer {
        cell: 1024,
        ..output
    };
    Demand {
        layers: vec![layer, layer, layer, layer, output],
        step: GIB / 4,
        step_cell: 0,
        logits: GIB / 4,
        copies: GIB,
        keeps_in_host: false,
        placed: Vec::new(),
        draft: Layer::default(),
    }
}

fn gpus(free: &[u64]) -> Vec<Device> {
    let gpu = |(index, &free_bytes): (usize, &u64)| Device {
        name: format!("CUDA{index}"),
        kind: DeviceKind::Gpu,
        description: "H200".to_owned(),
        free_bytes,
        total_bytes: 141 * GIB,
        cuda_index: Some(index as u32),
        compute_capability: Some((9, 0)),
    };
    free.iter().enumerate().map(gpu).collect()
}

fn fit<'a>(demand: &'a Demand, gpus: &'a [Device]) -> Fit<'a> {
    Fit {
        demand,
        gpus,
        margin: GIB,
        host: u64::MAX,
        host_margin: 0,
        n_gpu_layers: GpuLayers::Auto,
        n_cpu_moe: None,
        ratios: &[],
        split_rows: false,
        n_ctx: 4096..=32_768,
        n_slots: 1..=16,
        n_instances: 1,
        kv_unified: true,
    }
}

/// Layers on GPUs, tokens, slots, and the layers of each GPU.
fn chosen(fitted: Result<Fitted, Short>) -> Result<(u32, u32, u32, Vec<u32>), String> {
    let fitted = fitted.map_err(|short| short.to_string())?;
    let counts = fitted.shares.iter().map(|share| share.n_layers).collect();
    Ok((fitted.n_gpu_layers, fitted.n_ctx, fitted.n_slots, counts))
}

#[test]
fn the_context_gives_way_before_the_layers() {
    let demand = demand();
    let check = |free: u64, expected: (u32, u32, u32)| {
        let gpus = gpus(&[free]);
        let (n_layers, n_ctx, n_slots) = expected;
        let expected = Ok((n_layers, n_ctx, n_slots, vec![n_layers]));
        assert_eq!(
            chosen(fit(&demand, &gpus).choose()),
            expected,
            "{} MiB",
            free / MIB
        );
    };
    // Weights, a step and the margin take 6.5 GiB; a token takes 4 KiB.
    let without_cache = 6 * GIB + GIB / 2;
    check(without_cache + 128 * MIB, (5, 32_768, 16));
    check(100 * GIB, (5, 32_768, 16));
    check(without_cache + 128 * MIB - 1, (5, 32_512, 16));
    check(without_cache + 64 * MIB, (5, 16_384, 16));
    check(without_cache + 16 * MIB, (5, 4096, 16));
    // The buffer for copies of what is in host memory takes as much as that layer.
    check(without_cache + 16 * MIB - 1, (4, 4096, 16));
    check(4 * GIB, (1, 4096, 16));
}

#[test]
fn slots_with_cells_of_their_own_give_way_before_the_layers() {
    let demand = demand();
    let check = |free: u64, n_instances: u32, expected: (u32, u32, u32)| {
        let gpus = gpus(&[free]);
        let fit = Fit {
            kv_unified: false,
            n_slots: n_instances..=16 * n_instances,
            n_instances,
            ..fit(&demand, &gpus)
        };
        let (n_layers, n_ctx, n_slots) = expected;
        assert_eq!(
            chosen(fit.choose()),
            Ok((n_layers, n_ctx, n_slots, vec![n_layers]))
        );
    };
    let without_cache = 6 * GIB + GIB / 2;
    check(without_cache + 16 * 128 * MIB, 1, (5, 32_768, 16));
    check(without_cache + 16 * 16 * MIB, 1, (5, 4096, 16));
    check(without_cache + 15 * 16 * MIB, 1, (5, 4096, 15));
    check(without_cache + 16 * MIB, 1, (5, 4096, 1));
    check(without_cache + 16 * MIB - 1, 1, (4, 4096, 1));
    check(without_cache + 31 * 16 * MIB, 2, (5, 4096, 30));
}

/// The same, three quarters of layers 1 to 3 being experts.
fn demand_with_experts() -> Demand {
    let mut demand = demand();
    for layer in &mut demand.layers[1..4] {
        layer.experts = GIB * 3 / 4;
    }
    demand
}

#[test]
fn experts_give_way_before_the_layers() {
    let demand = demand_with_experts();
    let check = |free: u64, n_cpu_moe: Option<u32>, expected: Result<(u32, u32, u32), &str>| {
        let gpus = gpus(&[free]);
        let fit = Fit {
            n_cpu_moe,
            ..fit(&demand, &gpus)
        };
        let fitted = fit.choose().map_err(|short| short.to_string());
        let found = fitted.map(|fitted| (fitted.n_gpu_layers, fitted.n_cpu_moe, fitted.n_ctx));
        assert_eq!(found, expected.map_err(str::to_owned), "{} MiB", free / MIB);
    };
    let without_cache = 6 * GIB + GIB / 2;
    check(without_cache + 128 * MIB, None, Ok((5, 0, 32_768)));
    check(without_cache + 16 * MIB, None, Ok((5, 0, 4096)));
    // The first layer has none, and what is in host memory is copied for large steps: 1 GiB.
    check(without_cache + 16 * MIB - 1, None, Ok((5, 3, 4096)));
    check(without_cache - GIB / 2 + 15 * MIB, None, Ok((5, 4, 4096)));
    check(
        without_cache - GIB * 5 / 4 + 16 * MIB,
        None,
        Ok((5, 4, 4096)),
    );
    check(
        without_cache - GIB * 5 / 4 + 15 * MIB,
        None,
        Ok((4, 4, 4096)),
    );
    check(100 * GIB, Some(2), Ok((5, 2, 32_768)));
    check(without_cache - GIB, Some(4), Ok((5, 4, 32_768)));
    check(without_cache - GIB, Some(0), Ok((2, 0, 4096)));
    check(
        GIB,
        None,
        Err(
            "1 layers on GPUs but for the experts of the first 4, n_ctx = 4096 and 16 slots need \
             2684354560 bytes of CUDA0 (H200): 1073741824 bytes are free, 1073741824 of them are kept free",
        ),
    );
}

#[test]
fn what_is_set_is_kept_or_refused() {
    let demand = demand();
    let gpus = gpus(&[6 * GIB]);
    let check = |change: fn(&mut Fit), expected: Result<(u32, u32, u32, Vec<u32>), &str>| {
        let mut fit = fit(&demand, &gpus);
        change(&mut fit);
        assert_eq!(chosen(fit.choose()), expected.map_err(str::to_owned));
    };
    check(|_| {}, Ok((3, 4096, 16, vec![3])));
    check(|fit| fit.n_ctx = 100..=100, Ok((3, 100, 16, vec![3])));
    check(
        |fit| fit.n_gpu_layers = GpuLayers::Count(2),
        Ok((2, 32_768, 16, vec![2])),
    );
    check(
        |fit| fit.n_gpu_layers = GpuLayers::Count(0),
        Ok((0, 32_768, 16, vec![0])),
    );
    check(
        |fit| fit.n_gpu_layers = GpuLayers::All,
        Err(
            "5 layers on GPUs, n_ctx = 4096 and 16 slots need 5922357248 bytes of CUDA0 (H200): \
             6442450944 bytes are free, 1073741824 of them are kept free",
        ),
    );
    check(
        |fit| {
            fit.margin = 4 * GIB;
        },
        Err(
            "1 layers on GPUs, n_ctx = 4096 and 16 slots need 2684354560 bytes of CUDA0 (H200): \
             6442450944 bytes are free, 4294967296 of them are kept free",
        ),
    );
    check(
        |fit| {
            fit.n_gpu_layers = GpuLayers::Count(2);
            fit.n_ctx = 1 << 20..=1 << 20;
            fit.host = GIB;
        },
        Err(
            "2 layers on GPUs, n_ctx = 1048576 and 16 slots need 3221225472 bytes of host memory: \
             1073741824 bytes are free, 0 of them are kept free",
        ),
    );
    check(
        |fit| {
            fit.n_gpu_layers = GpuLayers::Count(2);
            fit.n_ctx = 1 << 18..=1 << 18;
            fit.host = GIB;
            fit.host_margin = GIB / 2;
        },
        Err(
            "2 layers on GPUs, n_ctx = 262144 and 16 slots need 805306368 bytes of host memory: \
             1073741824 bytes are free, 536870912 of them are kept free",
        ),
    );
}

#[test]
fn what_is_put_on_a_gpu_is_there_whatever_its_layers() {
    let check = |n_gpu_layers: u32, free: &[u64], expected: Result<&[u64], &str>| {
        let demand = Demand {
            placed: vec![0, 4 * GIB],
            ..demand()
        };
        let gpus = gpus(free);
        let fit = Fit {
            n_gpu_layers: GpuLayers::Count(n_gpu_layers),
            ..fit(&demand, &gpus)
        };
        let weights = |fitted: Fitted| -> Vec<u64> {
            let shares = fitted.shares.iter();
            shares.map(|share| share.weights).collect()
        };
        let found = fit.choose().map(weights).map_err(|short| short.to_string());
        let expected = expected.map(<[u64]>::to_vec).map_err(str::to_owned);
        assert_eq!(found, expected, "{n_gpu_layers} {free:?}");
    };
    let even = [20 * GIB, 20 * GIB];
    check(0, &even, Ok(&[0, 4 * GIB]));
    check(5, &even, Ok(&[3 * GIB, 6 * GIB]));
    // The second has room for what was put there and no layer.
    check(5, &[20 * GIB, 6 * GIB], Ok(&[5 * GIB, 4 * GIB]));
    check(
        5,
        &[20 * GIB, 4 * GIB],
        Err(
            "5 layers on GPUs, n_ctx = 4096 and 16 slots need 4563402752 bytes of CUDA1 (H200): \
             4294967296 bytes are free, 1073741824 of them are kept free",
        ),
    );
}

#[test]
fn layers_are_spread_over_the_gpus() {
    let demand = demand();
    let check = |free: &[u64], change: fn(&mut Fit), counts: &[u32], tensor_split: &[f32]| {
        let gpus = gpus(free);
        let mut fit = fit(&demand, &gpus);
        change(&mut fit);
        let fitted = fit
            .choose()
            .unwrap_or_else(|error| panic!("{free:?}: {error}"));
        let found: Vec<u32> = fitted.shares.iter().map(|share| share.n_layers).collect();
        assert_eq!(
            (found.as_slice(), fitted.tensor_split.as_slice()),
            (counts, tensor_split),
            "{free:?}"
        );
        assert_eq!(
            spread(&fitted.tensor_split, fitted.n_gpu_layers),
            counts,
            "as llama.cpp does"
        );
    };
    let even = [20 * GIB, 20 * GIB];
    check(&even, |_| {}, &[3, 2], &[3.0, 2.0]);
    check(&[31 * GIB, 11 * GIB], |_| {}, &[4, 1], &[4.0, 1.0]);
    check(&even, |fit| fit.ratios = &[1.0, 4.0], &[1, 4], &[1.0, 4.0]);
    check(&even, |fit| fit.ratios = &[0.0, 1.0], &[0, 5], &[0.0, 5.0]);
    check(
        &even,
        |fit| fit.n_gpu_layers = GpuLayers::Count(1),
        &[1, 0],
        &[1.0, 0.0],
    );
    // By the memory that is free the first would get two layers, and has room for one.
    check(
        &[GIB * 12 / 5, GIB * 33 / 10, GIB * 18 / 5],
        |_| {},
        &[1, 2, 2],
        &[1.0, 2.0, 2.0],
    );
    check(
        &even,
        |fit| fit.split_rows = true,
        &[3, 2],
        &[(19 * GIB) as f32, (19 * GIB) as f32],
    );
}

#[test]
fn rows_of_all_layers_are_on_every_gpu() {
    // What was put on a GPU, and the model that drafts, are whole.
    let demand = Demand {
        placed: vec![0, GIB],
        draft: Layer {
            weights: GIB / 2,
            ..Layer::default()
        },
        ..demand()
    };
    let gpus = gpus(&[20 * GIB, 20 * GIB]);
    let fit = Fit {
        split_rows: true,
        ratios: &[3.0, 1.0],
        ..fit(&demand, &gpus)
    };
    let fitted = fit.choose().unwrap_or_else(|error| panic!("{error}"));
    let weights: Vec<u64> = fitted.shares.iter().map(|share| share.weights).collect();
    let part = |n: u64| 5 * GIB * n / 4 * 65 / 64;
    assert_eq!(weights, [part(3) + GIB / 2, part(1) + GIB]);
    assert_eq!(fitted.tensor_split, [3.0, 1.0]);
}

#[test]
fn the_table_says_what_and_why() {
    let demand = demand();
    let (gpus, few) = (gpus(&[20 * GIB, 8 * GIB]), gpus(&[6 * GIB]));
    let fit = Fit {
        n_slots: 8..=8,
        ..fit(&demand, &gpus)
    };
    let fitted = fit.choose().unwrap_or_else(|error| panic!("{error}"));
    let expected = "  n_gpu_layers        5 of 5  automatic
  n_ctx                32768  automatic
  slots                    8  as configured
  MiB          layers  weights KV cache     step     kept     left     free
  CUDA0             4     4096      128      256     1024    14976    20480
  CUDA1             1     1024        0      512     1024     5632     8192
  host                                0";
    assert_eq!(fit.table(&fitted), expected);
    let demand = demand_with_experts();
    let fit = Fit {
        demand: &demand,
        gpus: &few,
        ..fit
    };
    let fitted = fit.choose().unwrap_or_else(|error| panic!("{error}"));
    let expected = "  n_gpu_layers        5 of 5  automatic
  n_cpu_moe           4 of 4  automatic, no more fits
  n_ctx                 4096  automatic, no more fits
";
    assert!(
        fit.table(&fitted).starts_with(expected),
        "{}",
        fit.table(&fitted)
    );
}

/// Sizes of any kind, and the memory of some GPUs.
fn cases() -> impl Strategy<Value = (Demand, Vec<u64>, bool, u32)> {
    let layer = (0..4 * GIB, 0..5_u64, 0..65_536_u64);
    let layer = layer.prop_map(|(weights, fifths, cell)| Layer {
        weights,
        experts: weights / 5 * fifths,
        cell,
    });
    let layers = proptest::collection::vec(layer.clone(), 1..12);
    let placed = proptest::collection::vec(0..GIB, 0..4);
    let sizes = (
        0..GIB,
        0..8192_u64,
        0..GIB,
        0..GIB,
        any::<bool>(),
        placed,
        layer,
    );
    let demand = (layers, sizes).prop_map(
        |(layers, (step, step_cell, logits, copies, keeps_in_host, placed, draft))| Demand {
            layers,
            step,
            step_cell,
            logits,
            copies,
            keeps_in_host,
            placed,
            draft,
        },
    );
    let free = proptest::collection::vec(0..64 * GIB, 1..4);
    (demand, free, any::<bool>(), 1..4_u32)
}

fn open<'a>(demand: &'a Demand, gpus: &'a [Device], kv_unified: bool, n_instances: u32) -> Fit<'a> {
    Fit {
        n_slots: n_instances..=16 * n_instances,
        n_instances,
        kv_unified,
        ..fit(demand, gpus)
    }
}

proptest! {
    #[test]
    fn no_fit_takes_what_is_to_stay_free((demand, free, kv_unified, n_instances) in cases()) {
        let gpus = gpus(&free);
        if let Ok(fitted) = open(&demand, &gpus, kv_unified, n_instances).choose() {
            for (share, free) in fitted.shares.iter().zip(&free) {
                prop_assert!(share.n_bytes() + GIB <= (*free).max(GIB), "{fitted:?}");
            }
            let n_layers: u32 = fitted.shares.iter().map(|share| share.n_layers).sum();
            prop_assert_eq!(n_layers, fitted.n_gpu_layers);
            prop_assert_eq!(fitted.n_slots % n_instances, 0);
            let counts: Vec<u32> = fitted.shares.iter().map(|share| share.n_layers).collect();
            prop_assert_eq!(spread(&fitted.tensor_split, fitted.n_gpu_layers), counts);
        }
    }

    #[test]
    fn more_memory_never_gives_less(
        (demand, free, kv_unified, n_instances) in cases(),
        which in any::<prop::sample::Index>(),
        more in 0..8 * GIB,
    ) {
        let mut richer = free.clone();
        *which.get_mut(&mut richer) += more;
        let (gpus, richer) = (gpus(&free), gpus(&richer));
        if let Ok(less) = open(&demand, &gpus, kv_unified, n_instances).choose() {
            let more = open(&demand, &richer, kv_unified, n_instances).choose();
            let more = more.unwrap_or_else(|error| panic!("{error}"));
            prop_assert!(more.n_gpu_layers >= less.n_gpu_layers, "{less:?} {more:?}");
            prop_assert!(more.n_cpu_moe <= less.n_cpu_moe, "{less:?} {more:?}");
            prop_assert!(more.n_slots >= less.n_slots, "{less:?} {more:?}");
            prop_assert!(more.n_ctx >= less.n_ctx, "{less:?} {more:?}");
        }
    }
}
