//! The devices of an instance group: which ones the parameters choose, and what is wrong with them.

use triton_llm::config::{InstanceGroup, InstanceKind, Place, SplitMode, placement};
use triton_llm::machine::device::{Device, DeviceKind};

use crate::{gpu, group, with_groups};

#[test]
fn parameters_choose_the_devices_of_kind_model() {
    let model = [group(InstanceKind::Model, 1, &[])];
    let gpus = [gpu(0), gpu(1), gpu(2)];
    let check = |parameters: &[(&str, &str)], expected: &[u32], split_mode: SplitMode| {
        let placed = placement(&with_groups(&model, parameters), Some(&gpus));
        let placed = placed.unwrap_or_else(|error| panic!("{parameters:?}: {error}"));
        let devices = placed[0].devices.iter();
        let numbers: Vec<u32> = devices.filter_map(|gpu| gpu.cuda_index).collect();
        assert_eq!(
            (numbers.as_slice(), placed[0].split_mode),
            (expected, split_mode),
            "{parameters:?}"
        );
        let place = if expected.is_empty() {
            Place::Cpu
        } else {
            Place::Model
        };
        assert_eq!(placed[0].place, place, "{parameters:?}");
    };
    check(&[], &[0, 1, 2], SplitMode::Layer);
    check(&[("devices", "CUDA2,CUDA0")], &[2, 0], SplitMode::Layer);
    check(&[("devices", "CUDA1")], &[1], SplitMode::None);
    check(&[("devices", "none")], &[], SplitMode::None);
    check(&[("split_mode", "none")], &[0], SplitMode::None);
    check(
        &[("split_mode", "none"), ("main_gpu", "2")],
        &[2],
        SplitMode::None,
    );
    check(
        &[
            ("split_mode", "none"),
            ("main_gpu", "1"),
            ("devices", "CUDA2,CUDA0"),
        ],
        &[0],
        SplitMode::None,
    );
    check(&[("split_mode", "row")], &[0, 1, 2], SplitMode::Row);
    check(
        &[("split_mode", "row"), ("devices", "none")],
        &[],
        SplitMode::None,
    );
    check(&[("tensor_split", "3,0,1")], &[0, 1, 2], SplitMode::Layer);
    check(
        &[("override_tensor", "a=CUDA2,b=CPU")],
        &[0, 1, 2],
        SplitMode::Layer,
    );
}

/// One that no build has code for.
fn old_gpu(index: u32) -> Device {
    Device {
        compute_capability: Some((6, 1)),
        description: "P40".to_owned(),
        ..gpu(index)
    }
}

#[test]
fn a_gpu_that_is_not_used_may_be_of_any_kind() {
    let model = [group(InstanceKind::Model, 1, &[])];
    let gpus = [old_gpu(0), gpu(1)];
    let check = |parameters: &[(&str, &str)], expected: Result<&[u32], &str>| {
        let placed = placement(&with_groups(&model, parameters), Some(&gpus));
        let found = placed.map_err(|error| error.to_string()).map(|placed| {
            let indices = placed[0].devices.iter().filter_map(|gpu| gpu.cuda_index);
            indices.collect::<Vec<_>>()
        });
        let expected = expected.map(<[u32]>::to_vec).map_err(str::to_owned);
        assert_eq!(found, expected, "{parameters:?}");
    };
    let unfit =
        "config parameter 'devices': CUDA0 (P40) has compute capability 6.1: must be at least 7.5";
    check(&[], Err(unfit));
    check(&[("devices", "CUDA1")], Ok(&[1]));
    check(&[("split_mode", "none")], Err(unfit));
    check(&[("split_mode", "none"), ("main_gpu", "1")], Ok(&[1]));
}

#[test]
fn a_device_may_be_of_any_provider() {
    let other = |name: &str, kind: DeviceKind| Device {
        name: name.to_owned(),
        kind,
        cuda_index: None,
        compute_capability: None,
        ..gpu(0)
    };
    let devices = [
        other("Vulkan0", DeviceKind::Gpu),
        other("Vulkan1", DeviceKind::IntegratedGpu),
        gpu(0),
    ];
    let check = |group: InstanceGroup,
                 parameters: &[(&str, &str)],
                 there: &[Device],
                 expected: Result<&[&str], &str>| {
        let placed = placement(&with_groups(&[group], parameters), Some(there));
        let found = placed.map_err(|error| error.to_string()).map(|placed| {
            let names = placed.iter().flat_map(|placed| &placed.devices);
            names.map(|device| device.name.clone()).collect::<Vec<_>>()
        });
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(found, expected.map(names).map_err(str::to_owned));
    };
    let group = |kind| group(kind, 1, &[]);
    // Triton has numbers for those of CUDA alone.
    check(group(InstanceKind::Gpu), &[], &devices, Ok(&["CUDA0"]));
    check(group(InstanceKind::Auto), &[], &devices, Ok(&["CUDA0"]));
    check(group(InstanceKind::Auto), &[], &devices[..2], Ok(&[]));
    let none = "instance_group asks for KIND_GPU, or for KIND_AUTO on a server that sees a GPU, but \
                there is no GPU that can be used: use KIND_CPU; the log says why";
    check(group(InstanceKind::Gpu), &[], &devices[..2], Err(none));
    // Where none is named, all GPUs are taken.
    let model = || group(InstanceKind::Model);
    check(model(), &[], &devices, Ok(&["Vulkan0", "CUDA0"]));
    check(
        model(),
        &[("split_mode", "row")],
        &devices,
        Ok(&["Vulkan0", "CUDA0"]),
    );
    check(
        model(),
        &[("devices", "Vulkan1")],
        &devices,
        Ok(&["Vulkan1"]),
    );
    let unknown = "config parameter 'devices' names \"CUDA1\": there is Vulkan0 (H200), Vulkan1 (H200), CUDA0 (H200)";
    check(model(), &[("devices", "CUDA1")], &devices, Err(unknown));
}

#[test]
fn what_is_wrong_with_devices_is_named() {
    use InstanceKind as Kind;
    let gpus = [gpu(0), gpu(1), old_gpu(2)];
    let check = |group: InstanceGroup,
                 parameters: &[(&str, &str)],
                 gpus: Option<&[Device]>,
                 expected: &str| {
        let placed = placement(&with_groups(&[group], parameters), gpus);
        let error = placed.expect_err(expected).to_string();
        assert_eq!(error, expected);
    };
    let all = Some(&gpus[..]);
    let two = Some(&gpus[..2]);
    let model = || group(Kind::Model, 1, &[]);
    check(
        group(Kind::Gpu, 1, &[3]),
        &[],
        all,
        "instance_group[0] names GPU 3 in 'gpus': there is CUDA0 (H200), CUDA1 (H200), CUDA2 (P40)",
    );
    check(
        group(Kind::Gpu, 1, &[1, 1]),
        &[],
        all,
        "instance_group[0] names GPU 1 in 'gpus' twice: must be once, 'count' is for more instances; \
         there is CUDA0 (H200), CUDA1 (H200), CUDA2 (P40)",
    );
    // One that cannot be used is not in the list.
    check(
        group(Kind::Gpu, 1, &[0, 1]),
        &[],
        Some(&[gpu(0), gpu(2)]),
        "instance_group[0] names GPU 1 in 'gpus': there is CUDA0 (H200), CUDA2 (H200)",
    );
    let unfit = "CUDA2 (P40) has compute capability 6.1: must be at least 7.5";
    let of_group = format!("'gpus' of instance_group[0]: {unfit}");
    check(group(Kind::Gpu, 1, &[2]), &[], all, &of_group);
    check(group(Kind::Gpu, 1, &[]), &[], all, &of_group);
    let of_model = format!("config parameter 'devices': {unfit}");
    check(model(), &[], all, &of_model);
    check(model(), &[("devices", "CUDA2")], all, &of_model);
    check(
        model(),
        &[("devices", "CUDA0,CUDA7")],
        two,
        "config parameter 'devices' names \"CUDA7\": there is CUDA0 (H200), CUDA1 (H200)",
    );
    check(
        model(),
        &[("devices", "CPU")],
        Some(&[]),
        "config parameter 'devices' names \"CPU\": there is no GPU",
    );
    check(
        model(),
        &[("devices", "CUDA0")],
        None,
        "config parameter 'devices' names \"CUDA0\": there is no GPU, as this build has no CUDA",
    );
    check(
        model(),
        &[("tensor_split", "1,1,1")],
        two,
        "config parameter 'tensor_split' = \"1,1,1\": must be a number for each device, which are CUDA0, CUDA1",
    );
    check(
        model(),
        &[("tensor_split", "1"), ("devices", "none")],
        two,
        "config parameter 'tensor_split' = \"1\": must be a number for each device, which are none",
    );
    check(
        model(),
        &[("main_gpu", "2")],
        two,
        "config parameter 'main_gpu' = 2: must be the index, from 0, of one of the devices CUDA0, CUDA1",
    );
    check(
        model(),
        &[("split_mode", "row"), ("devices", "CUDA1,CUDA0")],
        two,
        "config parameter 'split_mode' = \"row\": must be none or layer, unless the devices are CUDA0 \
         (H200), CUDA1 (H200), in this order",
    );
    for (name, value) in [
        ("devices", "CUDA0"),
        ("split_mode", "row"),
        ("tensor_split", "1"),
        ("main_gpu", "1"),
    ] {
        for (kind, gpus) in [(Kind::Gpu, two), (Kind::Cpu, None)] {
            let kind_name = kind.as_str();
            let expected = format!(
                "config parameter '{name}' is set: it is for KIND_MODEL, instance_group has {kind_name}"
            );
            check(group(kind, 1, &[]), &[(name, value)], gpus, &expected);
        }
    }
    check(
        group(Kind::Gpu, 1, &[0]),
        &[("override_tensor", "ffn=CUDA1")],
        two,
        "config parameter 'override_tensor' = \"ffn=CUDA1\": must be with a buffer type of this model: CPU, CUDA0",
    );
    check(
        group(Kind::Cpu, 1, &[]),
        &[("override_tensor", "ffn=CUDA1")],
        None,
        "config parameter 'override_tensor' = \"ffn=CUDA1\": must be with a buffer type of this model: CPU",
    );
    check(
        group(Kind::Cpu, 17, &[]),
        &[],
        None,
        "config parameter 'n_parallel' = 16: with 17 instances that is 272 slots, must be at most 256",
    );
    check(
        group(Kind::Cpu, 1, &[]),
        &[("n_batch", "15"), ("n_ubatch", "15")],
        None,
        "config parameter 'n_batch' = 15: must be at least 16, one token for each of the slots \
         (n_parallel = 16 x 1 instances)",
    );
    // The limits are those of each engine.
    let config = with_groups(&[group(Kind::Gpu, 16, &[0, 1])], &[]);
    assert!(placement(&config, two).is_ok());
}
