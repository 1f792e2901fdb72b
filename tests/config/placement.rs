//! Instance groups placed: on the CPU, on GPUs of their own, spread over several, and with how many slots.

use triton_llm::config::{InstanceGroup, InstanceKind, Place, placement};
use triton_llm::machine::device::Device;

use crate::{gpu, group, with_groups};

/// A group that Triton gives no requests to.
fn passive(kind: InstanceKind, count: u32) -> InstanceGroup {
    InstanceGroup {
        passive: true,
        ..group(kind, count, &[])
    }
}

#[test]
fn every_slot_has_tokens() {
    let check = |written: &[(&str, &str)], n_instances, expected: Result<usize, &str>| {
        let config = with_groups(&[group(InstanceKind::Cpu, n_instances, &[])], written);
        let placed = placement(&config, None).map_err(|error| error.to_string());
        let n_slots = placed.map(|placed| placed[0].n_slots);
        assert_eq!(n_slots, expected.map_err(str::to_owned), "{written:?}");
    };
    check(&[], 2, Ok(32));
    check(&[("n_ctx", "2")], 1, Ok(1));
    check(&[("n_ctx", "11")], 1, Ok(5));
    check(&[("n_ctx", "32")], 1, Ok(16));
    check(&[("n_ctx", "11")], 2, Ok(4));
    check(&[("n_ctx", "11"), ("kv_unified", "false")], 1, Ok(5));
    check(&[("n_ctx", "16"), ("n_parallel", "16")], 1, Ok(16));
    let error = "config parameter 'n_ctx' = 15: must be 0 (automatic) or at least 16, 1 for each of the slots \
                 (n_parallel = 16 x 1 instances)";
    check(&[("n_ctx", "15"), ("n_parallel", "16")], 1, Err(error));
    let error = "config parameter 'n_ctx' = 31: must be 0 (automatic) or at least 32, 2 for each of the slots \
                 (n_parallel = 8 x 2 instances)";
    let split = [
        ("n_ctx", "31"),
        ("n_parallel", "8"),
        ("kv_unified", "false"),
    ];
    check(&split, 2, Err(error));
    let error = "config parameter 'n_ctx' = 2: must be 0 (automatic) or at least 3, 1 for each of the slots \
                 (n_parallel = 1 x 3 instances)";
    check(&[("n_ctx", "2")], 3, Err(error));
}

#[test]
fn instances_are_counted_and_placed() {
    use InstanceKind as Kind;
    use Place::{Cpu, Model};
    const NO_CUDA: &str = "instance_group asks for KIND_GPU, or for KIND_AUTO on a server that sees a GPU, but \
                           this build has no CUDA: use KIND_CPU";
    const NO_GPU: &str = "instance_group asks for KIND_GPU, or for KIND_AUTO on a server that sees a GPU, but \
                          there is no GPU that can be used: use KIND_CPU; the log says why";
    type Placed = Vec<(Place, usize, Vec<u32>)>;
    let gpu_of = |index, n_instances| (Place::Gpu(index), n_instances, vec![index]);
    let cpu = |n_instances| (Cpu, n_instances, vec![]);
    // groups, instances in all, placement without a GPU and with two
    type Case = (Vec<InstanceGroup>, usize, Result<Placed, ()>, Placed);
    let cases: Vec<Case> = vec![
        (
            vec![],
            1,
            Ok(vec![cpu(1)]),
            vec![gpu_of(0, 1), gpu_of(1, 1)],
        ),
        (
            vec![group(Kind::Cpu, 4, &[])],
            4,
            Ok(vec![cpu(4)]),
            vec![cpu(4)],
        ),
        (
            vec![group(Kind::Cpu, 0, &[])],
            1,
            Ok(vec![cpu(1)]),
            vec![cpu(1)],
        ),
        (
            vec![group(Kind::Auto, 2, &[1])],
            2,
            Ok(vec![cpu(2)]),
            vec![gpu_of(1, 2)],
        ),
        (
            vec![group(Kind::Model, 1, &[])],
            1,
            Ok(vec![cpu(1)]),
            vec![(Model, 1, vec![0, 1])],
        ),
        (
            vec![group(Kind::Gpu, 1, &[])],
            1,
            Err(()),
            vec![gpu_of(0, 1), gpu_of(1, 1)],
        ),
        (
            vec![group(Kind::Gpu, 2, &[1, 0])],
            4,
            Err(()),
            vec![gpu_of(1, 2), gpu_of(0, 2)],
        ),
        (
            vec![
                group(Kind::Cpu, 1, &[]),
                group(Kind::Gpu, 1, &[0]),
                group(Kind::Cpu, 2, &[]),
                group(Kind::Gpu, 3, &[0]),
            ],
            7,
            Err(()),
            vec![cpu(3), gpu_of(0, 4)],
        ),
        // On the CPU, those that leave the choice to us share an engine with those of KIND_CPU.
        (
            vec![group(Kind::Model, 1, &[]), group(Kind::Cpu, 1, &[])],
            2,
            Ok(vec![cpu(2)]),
            vec![(Model, 1, vec![0, 1]), cpu(1)],
        ),
        (
            vec![passive(Kind::Gpu, 3), group(Kind::Cpu, 1, &[])],
            1,
            Ok(vec![cpu(1)]),
            vec![cpu(1)],
        ),
    ];
    for (groups, n_instances, without, with) in cases {
        let config = with_groups(&groups, &[]);
        assert_eq!(config.n_instances, n_instances, "{groups:?}");
        assert_eq!(config.instance_groups, groups);
        let place = |gpus: Option<&[Device]>| match placement(&config, gpus) {
            Ok(placed) => {
                assert!(
                    placed.iter().all(|p| p.n_slots == 16 * p.n_instances),
                    "{placed:?}"
                );
                let numbers = |p: &triton_llm::config::Placement| {
                    p.devices.iter().filter_map(|g| g.cuda_index).collect()
                };
                Ok(placed
                    .iter()
                    .map(|p| (p.place, p.n_instances, numbers(p)))
                    .collect())
            }
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(
            place(None),
            without.clone().map_err(|()| NO_CUDA.to_owned()),
            "{groups:?}"
        );
        assert_eq!(
            place(Some(&[])),
            without.map_err(|()| NO_GPU.to_owned()),
            "{groups:?}"
        );
        assert_eq!(
            place(Some(&[gpu(0), gpu(1)])),
            Ok::<Placed, _>(with),
            "{groups:?}"
        );
    }
}

#[test]
fn proportions_are_for_the_group_that_is_spread() {
    use InstanceKind as Kind;
    use Place::{Cpu, Model};
    let gpus = [gpu(0), gpu(1)];
    let model = || group(Kind::Model, 1, &[]);
    let check = |groups: &[InstanceGroup],
                 parameters: &[(&str, &str)],
                 expected: &[(Place, &[f32])]| {
        let placed = placement(&with_groups(groups, parameters), Some(&gpus));
        let placed = placed.unwrap_or_else(|error| panic!("{groups:?} {parameters:?}: {error}"));
        let found: Vec<(Place, &[f32])> = placed
            .iter()
            .map(|p| (p.place, p.tensor_split.as_slice()))
            .collect();
        assert_eq!(found, expected, "{groups:?} {parameters:?}");
    };
    let split = ("tensor_split", "3,1");
    check(&[model()], &[], &[(Model, &[])]);
    check(&[model()], &[split], &[(Model, &[3.0, 1.0])]);
    check(
        &[model()],
        &[split, ("split_mode", "row")],
        &[(Model, &[3.0, 1.0])],
    );
    check(
        &[model()],
        &[("tensor_split", "1"), ("devices", "CUDA1")],
        &[(Model, &[])],
    );
    check(
        &[group(Kind::Gpu, 1, &[1]), model(), group(Kind::Cpu, 1, &[])],
        &[split],
        &[(Place::Gpu(1), &[]), (Model, &[3.0, 1.0]), (Cpu, &[])],
    );
}
