//! The objects that are loaded in this process: which file an address of code or data is of.
//!
//! Called from any thread.

use std::ffi::{CStr, OsStr, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

/// The file of the loaded object that holds this address.
pub(super) fn file_of(address: *const c_void) -> Option<PathBuf> {
    // SAFETY: all zeros is a valid value of this plain struct.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: dladdr takes any address, and `info` is valid for the call.
    if unsafe { libc::dladdr(address, &mut info) } == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the name is a C string of an object that is loaded as long as its code or data is used.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// The file that our code is in: the library, or a program that it is linked into.
pub(super) fn own_file() -> Option<PathBuf> {
    file_of((own_file as fn() -> Option<PathBuf> as *const ()).cast())
}

/// The program that loads objects, ld.so: started with a library, it runs that.
pub(super) fn loader() -> Option<PathBuf> {
    // SAFETY: the call only returns a number.
    match unsafe { libc::getauxval(libc::AT_BASE) } {
        // This process was started by naming it.
        0 => std::env::current_exe().ok(),
        base => file_of(base as *const c_void),
    }
}
