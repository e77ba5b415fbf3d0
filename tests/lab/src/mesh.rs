//! A whole mesh in a lab: the internet in the middle, a coordinator, and clusters with a pod on every node.
//!
//! ```text
//!   east-1 (pod 10.1.1.10)  east-2 (pod 10.1.2.10)      west-1 (pod 10.2.1.10)  …
//!        192.0.2.11 |           | 192.0.2.12                   | 198.51.100.11
//!        -----------+-----------+-----  internet  -------------+-----
//!                                          | 203.0.113.10
//!                                     coordinator
//! ```
//! Cluster number C (from 1), node number N: underlay `.1N` of the cluster's documentation subnet and `2001:db8:C::1N`, pods
//! in `10.C.N.0/24` and `fd00:C:N::/64`. The processes are the real `carrick`, run as an operator would.

use std::{
    ffi::OsString,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;

use crate::{
    Host, Lab, Link, Process, Result, Switch,
    error::{Doing as _, invalid},
    harness::eventually,
};

/// IPv4 documentation subnets (RFC 5737): east, west.
const SUBNETS: [[u8; 3]; 2] = [[192, 0, 2], [198, 51, 100]];

/// The coordinator's address, at its usual port.
pub const COORDINATOR: &str = "203.0.113.10";

/// How long a process may take to say that it is ready.
const START: Duration = Duration::from_secs(20);

/// A mesh whose processes run when they are started.
pub struct Mesh {
    /// The router in the middle.
    pub internet: Host,
    /// Where the coordinator runs.
    pub coordinator_host: Host,
    /// The coordinator's cable.
    pub coordinator_link: Link,
    /// The coordinator, where it runs.
    pub coordinator: Option<Process>,
    /// The nodes of every cluster.
    pub nodes: Vec<Node>,
    /// The router's bridge of each cluster.
    pub switches: Vec<Switch>,
    carrick: PathBuf,
    directory: PathBuf,
}

/// A node with its pod.
pub struct Node {
    /// `east-1`.
    pub name: String,
    /// `east`.
    pub cluster: String,
    /// Where the agent runs.
    pub host: Host,
    /// Its cable to the internet.
    pub link: Link,
    /// Its pod.
    pub pod: Host,
    /// The addresses of its interface, IPv4 first.
    pub underlay: [IpAddr; 2],
    /// The addresses of its pod, IPv4 first.
    pub pod_ips: [IpAddr; 2],
    /// The prefixes that it speaks for.
    pub prefixes: [String; 2],
    /// Keys and membership.
    pub state_dir: PathBuf,
    /// The agent, where it runs.
    pub process: Option<Process>,
}

impl Mesh {
    /// Builds the hosts of some clusters, two at the most, and starts nothing yet. `carrick` is the program to run.
    pub fn build(lab: &mut Lab, carrick: &Path, clusters: &[(&str, u8)]) -> Result<Self> {
        // Process ids say nothing here: every sandbox counts its own.
        let directory = std::env::temp_dir().join("carrick-mesh-XXXXXX");
        let directory = nix::unistd::mkdtemp(&directory).doing(|| format!("make {}", directory.display()))?;
        let internet = lab.router("internet")?;
        let middle = lab.switch(&internet, "middle", &["203.0.113.1/24", "2001:db8:ff::1/64"])?;
        let coordinator_host = lab.host("coordinator")?;
        let addresses = [&*format!("{COORDINATOR}/24"), "2001:db8:ff::10/64"];
        let coordinator_link = lab.attach(&coordinator_host, &middle, "eth0", &addresses)?;
        let mut mesh = Self {
            internet,
            coordinator_host,
            coordinator_link,
            coordinator: None,
            nodes: Vec::new(),
            switches: Vec::new(),
            carrick: carrick.to_owned(),
            directory,
        };
        for (&(cluster, nodes), (subnet, number)) in clusters.iter().zip(SUBNETS.into_iter().zip(1_u8..)) {
            let [a, b, c] = subnet;
            let gateways = [&*format!("{a}.{b}.{c}.1/24"), &*format!("2001:db8:{number}::1/64")];
            let switch = lab.switch(&mesh.internet, cluster, &gateways)?;
            for index in 1..=nodes {
                let node = mesh.node(lab, &switch, cluster, (subnet, number), index)?;
                mesh.nodes.push(node);
            }
            mesh.switches.push(switch);
        }
        Ok(mesh)
    }

    fn node(
        &self,
        lab: &mut Lab,
        switch: &Switch,
        cluster: &str,
        (subnet, number): ([u8; 3], u8),
        index: u8,
    ) -> Result<Node> {
        let name = format!("{cluster}-{index}");
        let host = lab.host(&name)?;
        let [a, b, c] = subnet;
        let (c16, n16) = (u16::from(number), u16::from(index));
        let underlay: [IpAddr; 2] = [
            Ipv4Addr::new(a, b, c, 10 + index).into(),
            Ipv6Addr::new(0x2001, 0xdb8, c16, 0, 0, 0, 0, 0x10 + n16).into(),
        ];
        let addresses = [format!("{}/24", underlay[0]), format!("{}/64", underlay[1])];
        let link = lab.attach(&host, switch, "eth0", &[&addresses[0], &addresses[1]])?;
        let pod_ips: [IpAddr; 2] = [
            Ipv4Addr::new(10, number, index, 10).into(),
            Ipv6Addr::new(0xfd00, c16, n16, 0, 0, 0, 0, 0x10).into(),
        ];
        let addresses = [format!("{}/24", pod_ips[0]), format!("{}/64", pod_ips[1])];
        let pod = lab.pod(&host, &format!("pod-{name}"), &[&addresses[0], &addresses[1]])?;
        Ok(Node {
            host,
            link,
            pod,
            underlay,
            pod_ips,
            prefixes: [format!("10.{number}.{index}.0/24"), format!("fd00:{c16:x}:{n16:x}::/64")],
            state_dir: self.directory.join(&name),
            process: None,
            cluster: cluster.to_owned(),
            name,
        })
    }

    /// A directory of this mesh's own, gone with it.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The coordinator's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("coordinator")
    }

    /// The port at which the coordinator is reached.
    pub fn coordinator_address(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::new(203, 0, 113, 10).into(), 8443)
    }

    /// The command that runs the coordinator, to be changed before it is started. It needs no configuration, and so is
    /// called at either of its addresses.
    pub fn coordinator_command(&self) -> Command {
        let mut command = self.command();
        command.arg("coordinator").arg("--data-dir").arg(self.data_dir());
        command
    }

    /// Starts the coordinator with some more arguments, and waits until it is ready.
    pub fn start_coordinator(&mut self, more: &[OsString]) -> Result<()> {
        let mut command = self.coordinator_command();
        command.args(more);
        let process = self.coordinator_host.spawn("coordinator", command)?;
        process.wait_for_line("carrick token create", START)?;
        self.coordinator = Some(process);
        Ok(())
    }

    /// The operator's command line, on the coordinator's host, with the admin credential.
    pub fn carrick(&self) -> Command {
        let mut command = self.coordinator_host.command(&self.carrick);
        self.dress(&mut command);
        command.env("CARRICK_COORDINATOR", format!("https://{COORDINATOR}:8443"));
        command.env("CARRICK_CREDENTIAL", self.data_dir().join("admin.credential"));
        command
    }

    /// Runs the operator's command line.
    pub fn operate(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.carrick();
        command.args(arguments);
        command.output().doing(|| format!("run carrick {}", arguments.join(" ")))
    }

    /// Runs the operator's command line with `-o json`, and reads what it prints.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.operate(&[arguments, &["-o", "json"]].concat())?;
        let what = || format!("run carrick {}", arguments.join(" "));
        if !output.status.success() {
            return Err(invalid(what(), String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| invalid(what(), error.to_string()))
    }

    /// Makes a join token.
    pub fn token(&self, cluster: &str, uses: u32) -> Result<String> {
        let created = self.json(&["token", "create", "--cluster", cluster, "--uses", &uses.to_string()])?;
        let token = created["token"].as_str();
        token.map(str::to_owned).ok_or_else(|| invalid("make a token", format!("the answer was {created}")))
    }

    /// The command that runs a node, to be changed before it is started. A member needs no token.
    pub fn node_command(&self, index: usize, token: Option<&str>) -> Result<Command> {
        let node = &self.nodes[index];
        let mut command = self.command();
        command.args(["node", "--name", &node.name]).arg("--state-dir").arg(&node.state_dir);
        for prefix in &node.prefixes {
            command.args(["--prefix", prefix]);
        }
        if let Some(token) = token {
            let file = self.directory.join(format!("{}.token", node.name));
            fs::write(&file, token).doing(|| format!("write {}", file.display()))?;
            command.arg("--token-file").arg(file);
        }
        Ok(command)
    }

    /// Starts a node, and does not wait for it.
    pub fn start_node(&mut self, index: usize, token: Option<&str>) -> Result<()> {
        let command = self.node_command(index, token)?;
        let node = &mut self.nodes[index];
        node.process = Some(node.host.spawn(&node.name, command)?);
        Ok(())
    }

    /// Waits until a node that was started knows its peers.
    pub fn wait_for_node(&self, index: usize) -> Result<()> {
        let node = &self.nodes[index];
        match &node.process {
            Some(process) => process.wait_for_line("netmap applied", START).map(drop),
            None => Err(invalid(format!("wait for {}", node.name), "it was not started")),
        }
    }

    /// Waits until every node that runs has a session, has told where it is reached, and knows what there is to know.
    pub fn settle(&self) -> Result<()> {
        let running: Vec<(&Node, &Process)> =
            self.nodes.iter().filter_map(|node| Some((node, node.process.as_ref()?))).collect();
        eventually(START, "every node to be online, reachable and up to date", || {
            let topology = self.json(&["topology"]).ok()?;
            let nodes = topology["nodes"].as_array()?;
            let is_known = |name: &str| {
                nodes.iter().any(|node| {
                    node["name"] == name
                        && node["state"] == "active"
                        && node["online"] == true
                        && node["endpoints"].as_array().is_some_and(|endpoints| !endpoints.is_empty())
                })
            };
            let revision = topology["revision"].as_u64()?;
            let is_ready = |&(node, process): &(&Node, &Process)| {
                is_known(&node.name) && last_revision(process) == Some(revision)
            };
            running.iter().all(is_ready).then_some(())
        })
    }

    /// Starts the coordinator and every node, and waits until all are ready.
    pub fn start(&mut self) -> Result<()> {
        self.start_coordinator(&[])?;
        self.start_nodes()
    }

    /// Makes a token for each cluster, starts every node, and waits until all are ready.
    pub fn start_nodes(&mut self) -> Result<()> {
        let mut clusters: Vec<String> = self.nodes.iter().map(|node| node.cluster.clone()).collect();
        clusters.dedup();
        for cluster in clusters {
            let of_cluster: Vec<usize> =
                (0..self.nodes.len()).filter(|&index| self.nodes[index].cluster == cluster).collect();
            let token = self.token(&cluster, u32::try_from(of_cluster.len()).unwrap_or(u32::MAX))?;
            for index in of_cluster {
                self.start_node(index, Some(&token))?;
            }
        }
        (0..self.nodes.len()).try_for_each(|index| self.wait_for_node(index))?;
        self.settle()
    }

    /// A `carrick` that knows nothing of whoever runs the lab.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.carrick);
        self.dress(&mut command);
        command
    }

    /// Gives a command an environment with nothing of whoever runs the lab.
    fn dress(&self, command: &mut Command) {
        command.env("HOME", &self.directory).env("XDG_CONFIG_HOME", self.directory.join("config"));
        for variable in ["CARRICK_COORDINATOR", "CARRICK_CREDENTIAL", "CARRICK_TOKEN", "CARRICK_LOG"] {
            command.env_remove(variable);
        }
    }
}

/// The revision of the netmap that a node applied last.
fn last_revision(node: &Process) -> Option<u64> {
    let output = node.output();
    let line = output.lines().rev().find(|line| line.contains("netmap applied"))?;
    line.split_once("revision=")?.1.split(' ').next()?.parse().ok()
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(|node| drop(node.process.take()));
        self.coordinator = None;
        // Nothing can be done here about a directory that does not go.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
