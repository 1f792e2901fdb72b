//! Which GPUs this build has code for, in the words of CMake's `CMAKE_CUDA_ARCHITECTURES`.
//!
//! `build.rs` hands on what CUDA's module is built for. A GPU without code of its own would end the
//! process with its first step.

/// What CUDA's module is built for; empty where llama.cpp chooses.
pub(super) const BUILT_FOR: &str = env!("TRITON_LLM_CUDA_ARCHITECTURES");

/// The oldest compute capability that CUDA 13 has code for, and so what llama.cpp chooses.
const MIN_COMPUTE_CAPABILITY: (u32, u32) = (7, 5);

/// What a GPU's compute capability must be, where it is `found` and the build has no code for that.
pub(super) fn wanted(architectures: &str, found: (u32, u32)) -> Option<String> {
    let known: Option<Vec<_>> = architectures
        .split([';', ','])
        .map(|name| Architecture::parse(name.trim()))
        .collect();
    match known {
        Some(known) => {
            let has_code = known.iter().any(|architecture| architecture.runs_on(found));
            (!has_code).then(|| format!("one that this build has code for: {architectures}"))
        }
        None => {
            let (major, minor) = MIN_COMPUTE_CAPABILITY;
            (found < MIN_COMPUTE_CAPABILITY).then(|| format!("at least {major}.{minor}"))
        }
    }
}

/// One of the list: `90`, `90-real`, `90-virtual`, `90a-real`, ...
#[derive(Clone, Copy)]
struct Architecture {
    capability: (u32, u32),
    reach: Reach,
}

/// Which other GPUs can run the code.
#[derive(Clone, Copy)]
enum Reach {
    /// None.
    Same,
    /// Later ones of the same major number.
    Family,
    /// All later ones, for which the driver compiles it.
    Later,
}

impl Architecture {
    /// `None` for what names no architecture, as `all` and `native`.
    fn parse(name: &str) -> Option<Self> {
        let (name, is_virtual) = match name.strip_suffix("-real") {
            Some(name) => (name, false),
            None => (name.strip_suffix("-virtual").unwrap_or(name), true),
        };
        let number = name.trim_end_matches(['a', 'f']);
        let number: u32 = number.parse().ok()?;
        let capability = (number / 10, number % 10);
        let reach = match &name[name.len() - 1..] {
            "a" => Reach::Same,
            "f" => Reach::Family,
            // llama.cpp makes 12X into 12Xa.
            _ if capability.0 == 12 => Reach::Same,
            _ if is_virtual => Reach::Later,
            _ => Reach::Family,
        };
        Some(Self { capability, reach })
    }

    fn runs_on(self, found: (u32, u32)) -> bool {
        match self.reach {
            Reach::Same => found == self.capability,
            Reach::Family => found.0 == self.capability.0 && found >= self.capability,
            Reach::Later => found >= self.capability,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_runs_where_it_has_code() {
        type Case = (&'static str, &'static [(u32, u32)], &'static [(u32, u32)]);
        let cases: [Case; 10] = [
            ("", &[(7, 5), (8, 0), (12, 1)], &[(6, 1), (7, 0)]),
            ("native", &[(7, 5), (9, 0)], &[(7, 0)]),
            ("90", &[(9, 0), (10, 0)], &[(8, 9)]),
            ("80-real", &[(8, 0), (8, 9)], &[(7, 5), (9, 0)]),
            ("86-real", &[(8, 6)], &[(8, 0)]),
            ("80-virtual", &[(8, 0), (9, 0)], &[(7, 5)]),
            ("90a-real", &[(9, 0)], &[(8, 0), (10, 0)]),
            ("100f", &[(10, 0), (10, 3)], &[(9, 0), (11, 0)]),
            ("120", &[(12, 0)], &[(12, 1), (9, 0)]),
            ("75-real; 90a-real", &[(7, 5), (9, 0)], &[(8, 0)]),
        ];
        for (architectures, fit, unfit) in cases {
            for &found in fit {
                assert_eq!(wanted(architectures, found), None, "{architectures}");
            }
            for &found in unfit {
                assert!(
                    wanted(architectures, found).is_some(),
                    "{architectures} {found:?}"
                );
            }
        }
        let expected = "one that this build has code for: 90a-real";
        assert_eq!(wanted("90a-real", (8, 0)).as_deref(), Some(expected));
        assert_eq!(wanted("", (6, 1)).as_deref(), Some("at least 7.5"));
    }
}
