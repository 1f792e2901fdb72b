//! minijinja as it comes, which the guards call once what it costs is paid.

use std::sync::LazyLock;

use minijinja::Environment;

/// minijinja's own filters, tests and functions.
pub(super) static PLAIN: LazyLock<Environment<'static>> = LazyLock::new(Environment::new);
