//! Keeps what is in memory out of core dumps and away from debuggers of the same user.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// From now on this process leaves no core dump, and others of the same user may not read its memory. Its children
/// inherit the limit on dumps; running a program resets the rest, which runners give up anew by themselves.
pub fn no_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // A handler of dumps that is a program (core_pattern with |) is called whatever the limit; the flag stops it.
    let refused = [setrlimit(Resource::Core, none), set_dumpable_behavior(DumpableBehavior::NotDumpable)];
    for error in refused.into_iter().filter_map(Result::err) {
        tracing::warn!(%error, "a crash may leave secrets in a core dump: the system refuses to switch dumps off");
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn nothing_is_dumped_and_nobody_reads_the_memory() {
        no_core_dumps();
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
