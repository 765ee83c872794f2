//! Name resolution in a static program.

#![expect(unsafe_code, reason = "glibc has no other way to choose the modules of a static program")]

use std::ffi::{CStr, c_char, c_int};

unsafe extern "C" {
    /// "Overwrite service selection for database DBNAME using specification in SERVICE_LINE" (glibc, nss.h).
    fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
}

/// Uses only the modules of nsswitch.conf(5) that glibc contains: the system's files, and DNS.
///
/// For another module, such as `resolve` or `sss`, a static glibc loads the system's shared libraries. These must have the version
/// "used for linking" (the linker's warning about `getaddrinfo`), or else the process can crash: a program built with glibc 2.36
/// does with 2.41. Call this before any thread starts.
pub(crate) fn use_built_in_modules() {
    const MODULES: [(&CStr, &CStr); 2] = [(c"hosts", c"files dns"), (c"passwd", c"files")];
    for (database, services) in MODULES {
        // SAFETY: nss.h of glibc declares the function with these types. Both texts end with NUL and are static, and no other
        // thread runs that could look up a name meanwhile.
        let failed = unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
        debug_assert_eq!(failed, 0, "glibc knows the database and its services");
    }
}
