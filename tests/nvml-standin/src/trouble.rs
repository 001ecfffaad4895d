//! Calls that do not come back as they should: they hang, take their process along, or leave it where
//! not even SIGKILL ends it.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;
use std::thread;
use std::time::Duration;

use crate::script::{Script, What};

/// Makes the trouble that the script has for this call, if any.
pub(crate) fn make(call: &str, script: &Script) {
    let Some(trouble) = script.trouble.as_ref().filter(|trouble| trouble.call == call) else {
        return;
    };
    match &trouble.what {
        What::Hangs => sleep_for_ever(),
        What::OutlivesSigkill { until } => {
            hold_at_exit(until);
            sleep_for_ever();
        }
        // SAFETY: no memory is concerned. A signal that is caught or ignored is sent in vain.
        What::Crashes { signal } => unsafe {
            libc::signal(*signal, libc::SIG_DFL);
            libc::raise(*signal);
        },
    }
}

fn sleep_for_ever() {
    loop {
        thread::sleep(Duration::from_hours(1));
    }
}

/// Starts a process that traces this one and holds it in the middle of its exit, until there is a
/// file `until` or its folder is gone. To the parent that looks like a process in uninterruptible
/// sleep: SIGKILL was sent, and it is still there. Source: ptrace(2), `PTRACE_O_TRACEEXIT`.
fn hold_at_exit(until: &Path) {
    let folder = until.parent().unwrap_or(until);
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
    let (until, folder) = (text(until), text(folder));
    let mut pipe = [0; 2];
    // SAFETY: the texts end with a zero and outlive the calls; after fork(2) the new process calls
    // nothing but system calls, and never returns.
    unsafe {
        let traced = libc::getpid();
        // Where Yama guards processes from their descendants.
        libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY);
        if libc::pipe(pipe.as_mut_ptr()) != 0 {
            return;
        }
        let [ready, tell] = pipe;
        if libc::fork() == 0 {
            // Nobody is to wait for the end of what this process has open.
            for stream in 0..3 {
                libc::close(stream);
            }
            let no_address = ptr::null_mut::<libc::c_void>();
            let held = libc::ptrace(
                libc::PTRACE_SEIZE,
                traced,
                no_address,
                ptr::without_provenance_mut::<libc::c_void>(EXIT_IS_HELD),
            );
            libc::write(tell, [u8::from(held == 0)].as_ptr().cast(), 1);
            libc::close(tell);
            while held == 0
                && libc::access(until.as_ptr(), libc::F_OK) != 0
                && libc::access(folder.as_ptr(), libc::F_OK) == 0
            {
                libc::usleep(20_000);
            }
            // What it traces goes on where it was held.
            libc::_exit(0);
        }
        let mut is_held = 0_u8;
        libc::read(ready, ptr::from_mut(&mut is_held).cast(), 1);
        assert_eq!(is_held, 1, "this system does not let a process be traced");
    }
}

/// `PTRACE_O_TRACEEXIT`, as an address.
const EXIT_IS_HELD: usize = 1 << 6;
