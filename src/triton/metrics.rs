//! The series of an engine in Triton's metrics.
//!
//! Made at load, on Triton's threads; written before and after each step and ended with the
//! engine, on its thread. Triton lets any thread make these calls. Knows nothing
//! of what is measured, and never fails a load: a host may have no metrics.
//!
//! Two metrics of one name and with the same labels are one series, which ends
//! with the last of them. The engines of a model share theirs in this way, and
//! so do two loads of a model, of which the later one begins before the earlier
//! one's end: each adds its changes, and takes back what it has added. But Triton counts
//! the metrics of a series for each object of a family, of which one name may
//! have several, and frees the series at the first 0. So all copies of the
//! library use one object, which stays: Triton forgets no family anyway. They
//! make and delete metrics one at a time, as Triton finds a series and counts
//! it in two steps.

use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::Ordering;
use std::thread;

use super::api::{
    MetricsApi, TRITONSERVER_METRIC_KIND_GAUGE, TRITONSERVER_Metric, TRITONSERVER_MetricFamily,
    TRITONSERVER_PARAMETER_STRING, TRITONSERVER_Parameter, metrics_api,
};
use super::copies::{self, Shared};
use super::error::{Code, Error, c_string};
use super::exit::while_running;
use crate::metrics::Gauge;

/// What one engine shows; nothing where the host has no metrics.
pub(crate) struct Series(Vec<Metric>);

impl Series {
    /// Makes a series for each gauge, all with these labels and 0 at first.
    pub(crate) fn new(gauges: &[Gauge], labels: &[(&str, &str)]) -> Self {
        static ONCE: Once = Once::new();
        let made = gauges.iter().map(|gauge| Metric::new(gauge, labels));
        Self(made.collect::<Result<_, _>>().unwrap_or_else(|error| {
            ONCE.call_once(|| log::info!("models have no metrics of their own: {error}"));
            Vec::new()
        }))
    }

    /// Shows these values, in the order of the gauges.
    pub(crate) fn write(&mut self, values: impl Iterator<Item = f64>) {
        for (metric, value) in self.0.iter_mut().zip(values) {
            metric.write(value);
        }
    }
}

impl Drop for Series {
    fn drop(&mut self) {
        // As it may be that the process stops meanwhile, and Triton's registry with it.
        let _running = while_running();
        self.0.clear();
    }
}

/// One engine's part of a series.
///
/// # Invariants
///
/// The pointer is a metric of Triton's that nobody else has.
struct Metric {
    api: &'static MetricsApi,
    raw: *mut TRITONSERVER_Metric,
    /// What was added to the series and not taken back.
    written: f64,
}

// SAFETY: Triton's metrics belong to no thread.
unsafe impl Send for Metric {}

impl Metric {
    fn new(gauge: &Gauge, labels: &[(&str, &str)]) -> Result<Self, Error> {
        let api = metrics_api().ok_or_else(|| {
            Error::new(Code::Unsupported, "this server lacks the functions for it")
        })?;
        let label = |(name, value): &(&str, &str)| Label::new(api, name, value);
        let made: Vec<Label> = labels.iter().map(label).collect();
        let mut labels: Vec<_> = made.iter().map(|label| label.raw.cast_const()).collect();
        let lock = Lock::take();
        let family = lock.family(api, gauge)?;
        let mut raw = ptr::null_mut();
        // SAFETY: the family is Triton's and stays; the labels live until after the call, which
        // copies them.
        Error::check(unsafe {
            api.TRITONSERVER_MetricNew(&mut raw, family, labels.as_mut_ptr(), labels.len() as u64)
        })?;
        Ok(Self {
            api,
            raw,
            written: 0.0,
        })
    }

    fn write(&mut self, value: f64) {
        let change = value - self.written;
        if change == 0.0 {
            return;
        }
        // SAFETY: the metric is ours and lives.
        let added = unsafe { self.api.TRITONSERVER_MetricIncrement(self.raw, change) };
        match Error::check(added) {
            Ok(()) => self.written = value,
            Err(error) => log::debug!("a metric stays as it was: {error}"),
        }
    }
}

impl Drop for Metric {
    fn drop(&mut self) {
        self.write(0.0);
        let _lock = Lock::take();
        // SAFETY: the metric is ours, and is not used afterwards; its family stays.
        let deleted = unsafe { self.api.TRITONSERVER_MetricDelete(self.raw) };
        if let Err(error) = Error::check(deleted) {
            log::error!("a metric cannot be deleted: {error}");
        }
    }
}

/// A label of a series, while the series is made.
struct Label {
    api: &'static MetricsApi,
    raw: *mut TRITONSERVER_Parameter,
}

impl Label {
    fn new(api: &'static MetricsApi, name: &str, value: &str) -> Self {
        let (name, value) = (c_string(name), c_string(value));
        // SAFETY: both are C strings that Triton copies, as the kind says.
        let raw = unsafe {
            api.TRITONSERVER_ParameterNew(
                name.as_ptr(),
                TRITONSERVER_PARAMETER_STRING,
                value.as_ptr().cast(),
            )
        };
        Self { api, raw }
    }
}

impl Drop for Label {
    fn drop(&mut self) {
        // SAFETY: it was made for us and is not used afterwards.
        unsafe { self.api.TRITONSERVER_ParameterDelete(self.raw) };
    }
}

/// A family in the list that all copies share.
///
/// Whoever makes one adds it in front; none is ever changed or freed. Copies of other versions read
/// it, so its fields stay as they are.
#[repr(C)]
struct Family {
    name: *const c_char,
    raw: *mut TRITONSERVER_MetricFamily,
    /// The address of the next one, 0 at the end.
    next: usize,
}

/// Keeps all copies from making and deleting metrics, until this is dropped.
struct Lock(&'static Shared);

impl Lock {
    /// Waits for its turn: what others do meanwhile takes microseconds.
    fn take() -> Self {
        let shared = copies::shared();
        let is_free = || {
            let lock = &shared.metrics_lock;
            lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        };
        while !is_free() {
            thread::yield_now();
        }
        Self(shared)
    }

    /// The family of this name, made where no copy has.
    fn family(
        &self,
        api: &MetricsApi,
        gauge: &Gauge,
    ) -> Result<*mut TRITONSERVER_MetricFamily, Error> {
        let name = c_string(gauge.name);
        let first = self.0.families.load(Ordering::Acquire);
        if let Some(raw) = find(first, &name) {
            return Ok(raw);
        }
        let help = c_string(gauge.help);
        let mut raw = ptr::null_mut();
        // SAFETY: both are C strings that Triton copies.
        Error::check(unsafe {
            api.TRITONSERVER_MetricFamilyNew(
                &mut raw,
                TRITONSERVER_METRIC_KIND_GAUGE,
                name.as_ptr(),
                help.as_ptr(),
            )
        })?;
        let family = Box::into_raw(Box::new(Family {
            name: CString::into_raw(name),
            raw,
            next: first,
        }));
        self.0
            .families
            .store(family.expose_provenance(), Ordering::Release);
        Ok(raw)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.metrics_lock.store(0, Ordering::Release);
    }
}

/// Looks for a name in the list that begins at an address.
fn find(mut address: usize, name: &CStr) -> Option<*mut TRITONSERVER_MetricFamily> {
    // SAFETY: the address is 0 or that of a family which some copy made; it stays as it is.
    while let Some(family) = unsafe { ptr::with_exposed_provenance::<Family>(address).as_ref() } {
        // SAFETY: a family's name is a C string that stays.
        if unsafe { CStr::from_ptr(family.name) } == name {
            return Some(family.raw);
        }
        address = family.next;
    }
    None
}
