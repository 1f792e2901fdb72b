//! Backends, models and instances as Triton lends them to us.
//!
//! The handles are plain pointers that Triton keeps alive from an object's
//! Initialize to its Finalize; our own state hangs on them as a box that is set
//! once and taken once.

use std::any::Any;
use std::ffi::{CString, c_char};
use std::path::PathBuf;
use std::ptr::{self, NonNull};
use std::sync::{Arc, PoisonError, RwLock};

use super::api::{
    TRITONBACKEND_ARTIFACT_FILESYSTEM, TRITONBACKEND_Backend, TRITONBACKEND_BackendAttribute,
    TRITONBACKEND_Model, TRITONBACKEND_ModelInstance, TRITONSERVER_Error,
    TRITONSERVER_INSTANCEGROUPKIND_CPU, TRITONSERVER_INSTANCEGROUPKIND_GPU,
    TRITONSERVER_INSTANCEGROUPKIND_MODEL, TRITONSERVER_Message, TRITONSERVER_Server, api,
};
use super::error::{Code, Error, copy_c_str};
use super::shutdown;

/// The only version of the model configuration's JSON form that Triton has.
const CONFIG_VERSION: u32 = 1;

/// Calls a Triton function that returns an error, in an unsafe block of the
/// caller's, and checks it.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {
        Error::check(api().$function($($argument),*))
    };
}
pub(super) use call;

/// Defines a handle.
macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $raw:ty) => {
        $(#[$doc])*
        ///
        /// # Invariants
        ///
        /// The pointer is Triton's and valid until the object's Finalize.
        #[derive(Clone, Copy)]
        pub(crate) struct $name(NonNull<$raw>);

        // SAFETY: Triton's accessors for this object may be called from any
        // thread while it lives.
        unsafe impl Send for $name {}
        // SAFETY: as above; the accessors only read.
        unsafe impl Sync for $name {}

        impl $name {
            /// Wraps the pointer that Triton passed to an export.
            ///
            /// # Safety
            ///
            /// `raw` is null or valid until the object's Finalize.
            pub(crate) unsafe fn from_raw(raw: *mut $raw) -> Result<Self, Error> {
                NonNull::new(raw).map(Self).ok_or_else(|| {
                    Error::new(Code::Internal, concat!("Triton passed no ", stringify!($name)))
                })
            }
        }
    };
}

/// What hangs on one of Triton's objects: our state, of a type that is checked.
type State = Arc<dyn Any + Send + Sync>;

/// Lets our state hang on a handle's object.
macro_rules! state {
    ($name:ident, $state:ident, $set_state:ident) => {
        impl $name {
            /// Hangs our state on the object; it stays there until [`Self::drop_state`].
            pub(crate) fn set_state<T: Any + Send + Sync>(self, state: T) -> Result<(), Error> {
                let state = Box::into_raw(Box::new(Arc::new(state) as State));
                // SAFETY: the handle is valid; Triton only stores the pointer.
                let set = unsafe { call!($set_state(self.0.as_ptr(), state.cast())) };
                set.inspect_err(|_| {
                    // SAFETY: Triton refused the pointer, so the box is still ours.
                    drop(unsafe { Box::from_raw(state) });
                })
            }

            fn state_ptr(self) -> Result<*mut State, Error> {
                let mut state = ptr::null_mut();
                // SAFETY: the handle is valid and `state` may be written.
                unsafe { call!($state(self.0.as_ptr(), &mut state)) }?;
                Ok(state.cast())
            }

            /// Returns our state.
            ///
            /// # Errors
            ///
            /// INTERNAL where there is none, or one of another type.
            pub(crate) fn state<T: Any + Send + Sync>(self) -> Result<Arc<T>, Error> {
                // SAFETY: the pointer is null or from `set_state`, and Triton's
                // order of calls keeps `drop_state` from running meanwhile.
                let state = unsafe { self.state_ptr()?.as_ref() };
                state
                    .and_then(|state| Arc::clone(state).downcast().ok())
                    .ok_or_else(|| {
                        Error::new(
                            Code::Internal,
                            concat!(stringify!($name), " was not initialised"),
                        )
                    })
            }

            /// Drops our state, if Initialize came as far as to set it.
            pub(crate) fn drop_state(self) -> Result<(), Error> {
                let state = self.state_ptr()?;
                if !state.is_null() {
                    // SAFETY: the pointer is from `set_state` and is cleared first, so
                    // the box is dropped once.
                    unsafe {
                        call!($set_state(self.0.as_ptr(), ptr::null_mut()))?;
                        drop(Box::from_raw(state));
                    }
                }
                Ok(())
            }
        }
    };
}

handle!(
    /// The backend: one per loaded library.
    Backend, TRITONBACKEND_Backend
);
handle!(
    /// A model of the repository in one version.
    Model, TRITONBACKEND_Model
);
handle!(
    /// One instance of a model.
    Instance, TRITONBACKEND_ModelInstance
);
state!(
    Backend,
    TRITONBACKEND_BackendState,
    TRITONBACKEND_BackendSetState
);
state!(Model, TRITONBACKEND_ModelState, TRITONBACKEND_ModelSetState);
state!(
    Instance,
    TRITONBACKEND_ModelInstanceState,
    TRITONBACKEND_ModelInstanceSetState
);

impl Backend {
    pub(crate) fn name(self) -> Result<String, Error> {
        let mut name = ptr::null();
        // SAFETY: the handle is valid; the name lives as long as the backend.
        unsafe {
            call!(TRITONBACKEND_BackendName(self.0.as_ptr(), &mut name))?;
            Ok(copy_c_str(name))
        }
    }
}

impl Model {
    pub(crate) fn name(self) -> Result<String, Error> {
        let mut name = ptr::null();
        // SAFETY: the handle is valid; the name lives as long as the model.
        unsafe {
            call!(TRITONBACKEND_ModelName(self.0.as_ptr(), &mut name))?;
            Ok(copy_c_str(name))
        }
    }

    pub(crate) fn version(self) -> Result<u64, Error> {
        let mut version = 0;
        // SAFETY: the handle is valid and `version` may be written.
        unsafe { call!(TRITONBACKEND_ModelVersion(self.0.as_ptr(), &mut version)) }?;
        Ok(version)
    }

    pub(crate) fn backend(self) -> Result<Backend, Error> {
        let mut backend = ptr::null_mut();
        // SAFETY: the handle is valid; a model's backend outlives it.
        unsafe {
            call!(TRITONBACKEND_ModelBackend(self.0.as_ptr(), &mut backend))?;
            Backend::from_raw(backend)
        }
    }

    pub(super) fn as_ptr(self) -> *mut TRITONBACKEND_Model {
        self.0.as_ptr()
    }

    /// Returns the folder of this version, such as `models/chat/1`.
    pub(crate) fn version_folder(self) -> Result<PathBuf, Error> {
        let (mut kind, mut location) = (TRITONBACKEND_ARTIFACT_FILESYSTEM, ptr::null());
        // SAFETY: the handle is valid; the path lives as long as the model.
        let location = unsafe {
            call!(TRITONBACKEND_ModelRepository(
                self.0.as_ptr(),
                &mut kind,
                &mut location
            ))?;
            copy_c_str(location)
        };
        if kind != TRITONBACKEND_ARTIFACT_FILESYSTEM {
            let message = format!("the model repository is of kind {kind}, not a file system");
            return Err(Error::new(Code::Unsupported, message));
        }
        Ok(PathBuf::from(location).join(self.version()?.to_string()))
    }

    /// Returns the model configuration as Triton's JSON.
    pub(crate) fn config_json(self) -> Result<String, Error> {
        let mut message: *mut TRITONSERVER_Message = ptr::null_mut();
        // SAFETY: the handle is valid; the message is ours to delete.
        unsafe {
            call!(TRITONBACKEND_ModelConfig(
                self.0.as_ptr(),
                CONFIG_VERSION,
                &mut message
            ))?;
            let (mut base, mut byte_size): (*const c_char, usize) = (ptr::null(), 0);
            let serialized = call!(TRITONSERVER_MessageSerializeToJson(
                message,
                &mut base,
                &mut byte_size
            ));
            let json = serialized.map(|()| {
                let bytes = std::slice::from_raw_parts(base.cast::<u8>(), byte_size);
                String::from_utf8_lossy(bytes).into_owned()
            });
            call!(TRITONSERVER_MessageDelete(message))?;
            json
        }
    }

    /// Says whether Triton lets us complete the configuration.
    pub(crate) fn auto_complete(self) -> Result<bool, Error> {
        let mut auto_complete = false;
        // SAFETY: the handle is valid and the flag may be written.
        unsafe {
            call!(TRITONBACKEND_ModelAutoCompleteConfig(
                self.0.as_ptr(),
                &mut auto_complete
            ))
        }?;
        Ok(auto_complete)
    }

    /// Completes the model configuration; `json` is a whole configuration.
    pub(crate) fn set_config(self, json: &str) -> Result<(), Error> {
        let mut message: *mut TRITONSERVER_Message = ptr::null_mut();
        // SAFETY: Triton copies the JSON; the message is ours to delete.
        unsafe {
            call!(TRITONSERVER_MessageNewFromSerializedJson(
                &mut message,
                json.as_ptr().cast(),
                json.len()
            ))?;
            let set = call!(TRITONBACKEND_ModelSetConfig(
                self.0.as_ptr(),
                CONFIG_VERSION,
                message
            ));
            call!(TRITONSERVER_MessageDelete(message))?;
            set
        }
    }

    /// Makes a probe that says whether the server still serves this model.
    ///
    /// It is false while the server starts, once its end is near, and once the
    /// model is being unloaded. The probe takes locks of Triton's, so it is for
    /// our own threads only, a few times a second. Where Triton cannot say, as
    /// when another repository brings a model of the same name, it stays true.
    pub(crate) fn serving_probe(self) -> Result<impl Fn() -> bool + Send + Sync + 'static, Error> {
        struct Server(*mut TRITONSERVER_Server);
        // SAFETY: the server outlives its models and may be asked from any thread.
        unsafe impl Send for Server {}
        // SAFETY: as above.
        unsafe impl Sync for Server {}

        let mut server = Server(ptr::null_mut());
        // SAFETY: the handle is valid and the pointer may be written.
        unsafe { call!(TRITONBACKEND_ModelServer(self.0.as_ptr(), &mut server.0)) }?;
        let name = CString::new(self.name()?)
            .map_err(|_| Error::new(Code::Internal, "the model's name holds a NUL character"))?;
        let version = i64::try_from(self.version()?).unwrap_or(-1);
        Ok(move || {
            if let Some(is_due) = shutdown::is_due() {
                return !is_due;
            }
            let server = &server;
            let mut ready = false;
            // SAFETY: the server outlives the model, and the model the probe.
            let asked = unsafe {
                call!(TRITONSERVER_ServerModelIsReady(
                    server.0,
                    name.as_ptr(),
                    version,
                    &mut ready
                ))
            };
            match asked {
                Ok(()) => ready,
                Err(error) => !matches!(error.code, Code::NotFound | Code::Unavailable),
            }
        })
    }
}

/// Where Triton places an instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum InstanceKind {
    Cpu,
    /// On the GPU of this number.
    Gpu(u32),
    /// The backend chooses.
    Model,
}

impl Instance {
    pub(crate) fn model(self) -> Result<Model, Error> {
        let mut model = ptr::null_mut();
        // SAFETY: the handle is valid; an instance's model outlives it.
        unsafe {
            call!(TRITONBACKEND_ModelInstanceModel(
                self.0.as_ptr(),
                &mut model
            ))?;
            Model::from_raw(model)
        }
    }

    pub(crate) fn kind(self) -> Result<InstanceKind, Error> {
        let mut kind = TRITONSERVER_INSTANCEGROUPKIND_CPU;
        // SAFETY: the handle is valid and `kind` may be written.
        unsafe { call!(TRITONBACKEND_ModelInstanceKind(self.0.as_ptr(), &mut kind)) }?;
        match kind {
            TRITONSERVER_INSTANCEGROUPKIND_CPU => Ok(InstanceKind::Cpu),
            TRITONSERVER_INSTANCEGROUPKIND_GPU => Ok(InstanceKind::Gpu(self.device_id()?)),
            TRITONSERVER_INSTANCEGROUPKIND_MODEL => Ok(InstanceKind::Model),
            other => Err(Error::new(
                Code::Unsupported,
                format!("instance kind {other} is not one that this backend knows"),
            )),
        }
    }

    /// Whether Triton will give it no requests.
    pub(crate) fn is_passive(self) -> Result<bool, Error> {
        let mut is_passive = false;
        // SAFETY: the handle is valid and the flag may be written.
        unsafe {
            call!(TRITONBACKEND_ModelInstanceIsPassive(
                self.0.as_ptr(),
                &mut is_passive
            ))
        }?;
        Ok(is_passive)
    }

    fn device_id(self) -> Result<u32, Error> {
        let mut id = 0;
        // SAFETY: the handle is valid and `id` may be written.
        unsafe {
            call!(TRITONBACKEND_ModelInstanceDeviceId(
                self.0.as_ptr(),
                &mut id
            ))
        }?;
        u32::try_from(id).map_err(|_| {
            let message = format!("an instance on a GPU has the device id {id}");
            Error::new(Code::Internal, message)
        })
    }

    pub(super) fn as_ptr(self) -> *mut TRITONBACKEND_ModelInstance {
        self.0.as_ptr()
    }
}

/// An instance as its requests hold it: there until its Finalize, then gone.
///
/// Triton finalises an instance whose requests still stream where only the
/// model's `instance_group` changes.
pub(crate) struct Attached(RwLock<Option<Instance>>);

impl Attached {
    pub(crate) fn new(instance: Instance) -> Self {
        Self(RwLock::new(Some(instance)))
    }

    /// Takes the instance away, once nobody uses it any more.
    pub(crate) fn detach(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Uses the instance, if it is still there, and holds off its end meanwhile.
    pub(super) fn with(&self, body: impl FnOnce(Instance)) {
        if let Some(instance) = *self.0.read().unwrap_or_else(PoisonError::into_inner) {
            body(instance);
        }
    }
}

/// Makes an instance on each GPU, or one on the CPU, the default where a configuration names no group.
///
/// # Safety
///
/// `attributes` is what Triton passed to `TRITONBACKEND_GetBackendAttribute`.
pub(crate) unsafe fn prefer_instances(
    attributes: *mut TRITONBACKEND_BackendAttribute,
    on_gpus: bool,
) -> Result<(), Error> {
    let kind = match on_gpus {
        true => TRITONSERVER_INSTANCEGROUPKIND_GPU,
        false => TRITONSERVER_INSTANCEGROUPKIND_CPU,
    };
    // SAFETY: the attributes are valid by the caller's promise; no device ids are given.
    unsafe {
        call!(TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
            attributes,
            kind,
            1,
            ptr::null(),
            0
        ))
    }
}

/// Logs and frees an error that no caller is there for.
pub(super) fn discard(raw: *mut TRITONSERVER_Error) {
    if let Err(error) = Error::check(raw) {
        log::error!("triton-llm: Triton refused a call: {error}");
    }
}
