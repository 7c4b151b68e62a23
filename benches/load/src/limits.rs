//! Open files: a thousand streams are more sockets than most systems allow a process unasked.

/// Raises the soft limit on open files to the hard one. Where that fails, connecting will say so.
pub(crate) fn raise_open_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let allowed = getrlimit(Resource::Nofile).maximum;
        let _ = setrlimit(Resource::Nofile, Rlimit { current: allowed, maximum: allowed });
    }
}
