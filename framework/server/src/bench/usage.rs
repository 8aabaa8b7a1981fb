//! What processes use: CPU time of this one and of the servers that listen on local ports, memory of this one.
//! From `/proc`; elsewhere than on Linux there are no figures.

use std::{collections::HashSet, fs};

/// The unit of CPU times in `/proc`, on every Linux that matters.
const TICKS_PER_SECOND: f64 = 100.0;

/// The processes whose CPU time counts.
#[derive(Debug, Clone)]
pub(super) struct Processes {
    ports: Vec<u16>,
    /// Whether the servers are on this machine and can be looked at.
    pub(super) servers_counted: bool,
}

impl Processes {
    /// This process, and those that listen on these local ports with all their descendants.
    pub(super) fn new(ports: Vec<u16>) -> Processes {
        let servers_counted = ports.iter().all(|port| listener(*port).is_some());
        Processes { ports, servers_counted }
    }

    /// The CPU seconds that they have used so far.
    pub(super) fn cpu_seconds(&self) -> f64 {
        let table = table();
        let mut roots: HashSet<u32> = self.ports.iter().filter_map(|port| listener(*port)).collect();
        roots.insert(std::process::id());
        let counted = |process: &Process| {
            let mut pid = process.pid;
            // As deep as process trees get; a cycle cannot be, but a table read while it changes may look so.
            for _ in 0..64 {
                if roots.contains(&pid) {
                    return true;
                }
                match table.iter().find(|p| p.pid == pid) {
                    Some(p) if p.parent > 1 => pid = p.parent,
                    _ => return false,
                }
            }
            false
        };
        table.iter().filter(|p| counted(p)).map(|p| p.ticks as f64 / TICKS_PER_SECOND).sum()
    }
}

/// The most memory that this process has had, in MiB.
pub(super) fn peak_mib() -> Option<f64> {
    status_mib("VmHWM:")
}

/// Lets the peak begin anew, where the kernel allows it.
pub(super) fn reset_peak() {
    // Without the right to do it the peak is that of the whole run, which is still true.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn status_mib(field: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().trim_end_matches(" kB").parse::<f64>().ok().map(|kib| kib / 1024.0)
}

struct Process {
    pid: u32,
    parent: u32,
    ticks: u64,
}

fn table() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(process).collect()
}

/// `/proc/PID/stat`: the name is in parentheses and may hold anything; fields 4 (parent), 14 to 17 (user and system
/// time of the process and of its ended children) follow.
fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().filter_map(|f| f.parse::<u64>().ok()).sum();
    Some(Process { pid, parent: fields.get(1)?.parse().ok()?, ticks })
}

/// The process that listens on a local TCP port.
fn listener(port: u16) -> Option<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let wanted = format!(":{port:04X}");
    let sockets: HashSet<String> = tables
        .iter()
        .flat_map(|table| table.lines().skip(1))
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = fields.get(3) == Some(&"0A") && fields.get(1)?.ends_with(&wanted);
            listens.then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
        })
        .collect();
    let holds = |pid: &u32| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        files
            .flatten()
            .filter_map(|f| fs::read_link(f.path()).ok())
            .any(|link| sockets.contains(&*link.to_string_lossy()))
    };
    let mut pids: Vec<u32> = table().into_iter().map(|p| p.pid).filter(holds).collect();
    // A server's children inherit its sockets; the eldest is the server.
    pids.sort_unstable();
    pids.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_listens_on_a_port_is_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(listener(port), Some(std::process::id()));
        drop(socket);
        let processes = Processes::new(vec![port]);
        assert!(!processes.servers_counted);
        assert!(peak_mib().unwrap() > 0.1);
        assert!(processes.cpu_seconds() >= 0.0);
    }
}
