//! Folders of the machine that a thread, and what it starts, has for itself.

use std::path::Path;

/// Gives the calling thread mount and IPC namespaces of its own, with empty folders at these places.
///
/// The system undoes it when the last thread and process in the namespaces has ended.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "rustix says so of the whole call, because of one flag")]
pub(crate) fn hide(folders: &[&Path]) {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    use rustix::thread::{UnshareFlags, unshare_unsafe};

    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWIPC;
    // SAFETY: the table of open files, which the flag FILES is about, stays shared.
    if let Err(why) = unsafe { unshare_unsafe(flags) } {
        panic!(
            "namespaces of its own: {why}. Run the test as root (scripts/test-modules does, with sudo), in a \
             container with --cap-add SYS_ADMIN"
        );
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("private mounts");
    for folder in folders {
        mount("tmpfs", *folder, "tmpfs", MountFlags::empty(), None)
            .unwrap_or_else(|why| panic!("an own {}: {why}", folder.display()));
    }
}

/// Other systems have no such thing.
#[cfg(not(target_os = "linux"))]
pub(crate) fn hide(folders: &[&Path]) {
    panic!("{folders:?} for one thread alone: Linux only");
}
