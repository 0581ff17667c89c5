//! Every resource that `update` takes, read back from the kernel's files: one table for cgroup v1, hybrid and v2, which
//! docs/cgroups.md shows.

use super::Case;
use crate::failure::{During, Failure, Outcome};
use crate::harness::Ctx;
use crate::{cgroups, ensure};

pub const CASES: &[Case] = &[Case::new(
    "update_every_resource",
    "peers.md A1.2 and B 10: what update sets is what the files of this host's cgroup version say",
    every_resource,
)];

/// Where a resource is to be found.
enum Place {
    /// A controller, its file, and what a line of the file has to say.
    File(&'static str, &'static str, &'static str),
    /// This version has no such limit, and says so.
    Refused,
}

use Place::{File, Refused};

/// A resource, as JSON, and its place in v1 and in v2. `DEV` stands for a disk's numbers.
#[rustfmt::skip]
const TABLE: &[(&str, Place, Place)] = &[
    (r#"{"memory":{"limit":67108864}}"#, File("memory", "memory.limit_in_bytes", "67108864"), File("memory", "memory.max", "67108864")),
    (r#"{"memory":{"limit":67108864,"swap":100663296}}"#, File("memory", "memory.memsw.limit_in_bytes", "100663296"), File("memory", "memory.swap.max", "33554432")),
    (r#"{"memory":{"reservation":33554432}}"#, File("memory", "memory.soft_limit_in_bytes", "33554432"), File("memory", "memory.low", "33554432")),
    (r#"{"memory":{"limit":-1}}"#, File("memory", "memory.limit_in_bytes", "9223372036854771712"), File("memory", "memory.max", "max")),
    (r#"{"memory":{"swappiness":30}}"#, File("memory", "memory.swappiness", "30"), Refused),
    (r#"{"cpu":{"shares":2}}"#, File("cpu", "cpu.shares", "2"), File("cpu", "cpu.weight", "1")),
    (r#"{"cpu":{"shares":262144}}"#, File("cpu", "cpu.shares", "262144"), File("cpu", "cpu.weight", "10000")),
    (r#"{"cpu":{"shares":1024}}"#, File("cpu", "cpu.shares", "1024"), File("cpu", "cpu.weight", "100")),
    (r#"{"cpu":{"quota":30000,"period":60000}}"#, File("cpu", "cpu.cfs_quota_us", "30000"), File("cpu", "cpu.max", "30000 60000")),
    (r#"{"cpu":{"period":50000}}"#, File("cpu", "cpu.cfs_period_us", "50000"), File("cpu", "cpu.max", "30000 50000")),
    (r#"{"cpu":{"burst":10000}}"#, File("cpu", "cpu.cfs_burst_us", "10000"), File("cpu", "cpu.max.burst", "10000")),
    (r#"{"cpu":{"burst":0,"quota":-1}}"#, File("cpu", "cpu.cfs_quota_us", "-1"), File("cpu", "cpu.max", "max")),
    (r#"{"cpu":{"idle":1}}"#, File("cpu", "cpu.idle", "1"), File("cpu", "cpu.idle", "1")),
    (r#"{"cpu":{"idle":0}}"#, File("cpu", "cpu.idle", "0"), File("cpu", "cpu.idle", "0")),
    (r#"{"cpu":{"realtimeRuntime":1000,"realtimePeriod":1000000}}"#, File("cpu", "cpu.rt_runtime_us", "1000"), Refused),
    (r#"{"cpu":{"cpus":"0"}}"#, File("cpuset", "cpuset.cpus", "0"), File("cpuset", "cpuset.cpus", "0")),
    (r#"{"cpu":{"mems":"0"}}"#, File("cpuset", "cpuset.mems", "0"), File("cpuset", "cpuset.mems", "0")),
    (r#"{"pids":{"limit":77}}"#, File("pids", "pids.max", "77"), File("pids", "pids.max", "77")),
    (r#"{"pids":{"limit":-1}}"#, File("pids", "pids.max", "max"), File("pids", "pids.max", "max")),
    (r#"{"blockIO":{"weight":300}}"#, File("blkio", "blkio.bfq.weight", "300"), File("io", "io.weight", "default 2930")),
    (r#"{"blockIO":{"throttleReadBpsDevice":[DEV,"rate":1048576}]}}"#, File("blkio", "blkio.throttle.read_bps_device", "1048576"), File("io", "io.max", "rbps=1048576")),
    (r#"{"blockIO":{"throttleWriteBpsDevice":[DEV,"rate":2097152}]}}"#, File("blkio", "blkio.throttle.write_bps_device", "2097152"), File("io", "io.max", "wbps=2097152")),
    (r#"{"blockIO":{"throttleReadIOPSDevice":[DEV,"rate":300}]}}"#, File("blkio", "blkio.throttle.read_iops_device", "300"), File("io", "io.max", "riops=300")),
    (r#"{"blockIO":{"throttleWriteIOPSDevice":[DEV,"rate":400}]}}"#, File("blkio", "blkio.throttle.write_iops_device", "400"), File("io", "io.max", "wiops=400")),
    (r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#, File("hugetlb", "hugetlb.2MB.limit_in_bytes", "4194304"), File("hugetlb", "hugetlb.2MB.max", "4194304")),
    (r#"{"network":{"classID":1048577}}"#, File("net_cls", "net_cls.classid", "1048577"), Refused),
    (r#"{"unified":{"memory.high":"60817408"}}"#, Refused, File("memory", "memory.high", "60817408")),
    (r#"{"unified":{"pids.max":"66"}}"#, Refused, File("pids", "pids.max", "66")),
];

/// The numbers of a whole disk, where the root file system is on one.
fn disk() -> Option<(u32, u32)> {
    let device = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata("/").ok()?);
    let numbers = (libc::major(device), libc::minor(device));
    std::path::Path::new(&format!("/sys/dev/block/{}:{}/queue", numbers.0, numbers.1))
        .exists()
        .then_some(numbers)
}

fn every_resource(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    let _container = bundle.start(ctx)?;
    let (mut seen, mut wrong) = (0, Vec::new());
    for (resources, v1, v2) in TABLE {
        let resources = match disk() {
            Some((major, minor)) => {
                resources.replace("DEV", &format!(r#"{{"major":{major},"minor":{minor}"#))
            }
            None if resources.contains("DEV") => continue,
            None => (*resources).to_owned(),
        };
        match one(ctx, &bundle.id, &resources, [v1, v2]) {
            Ok(true) => seen += 1,
            Ok(false) => {}
            Err(failure) => wrong.push(format!("{resources}: {failure:?}")),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    // hugetlb is the one controller that every host of these tests has.
    ensure!(seen > 0, "no resource could be looked at");
    Ok(())
}

/// Whether this host has what is to be seen.
fn one(ctx: &Ctx, id: &str, resources: &str, places: [&Place; 2]) -> Outcome<bool> {
    // Where the controller is; a resource that one version lacks is refused where the other one has no such controller.
    let mut found = None;
    for (place, version) in places.into_iter().zip([1, 2]) {
        let File(controller, file, value) = place else { continue };
        let hierarchy = cgroups::find(controller)?.filter(|hierarchy| hierarchy.version == version);
        let path = hierarchy.map(|hierarchy| cgroups::directory(&hierarchy, id).join(file));
        // The kernel is built without some, and io.bfq.weight takes the weight where there is one.
        // v2's file is there once a limit has been set, on a hybrid host.
        let is_there = |path: &std::path::PathBuf| path.exists() || *file == "hugetlb.2MB.max";
        found = found.or(path.filter(is_there).map(|path| (path, *value)));
    }
    let is_v2 = cgroups::hierarchies()?.iter().all(|hierarchy| hierarchy.version == 2);
    let refused = matches!(places[usize::from(is_v2)], Refused);
    let call = ctx.call(["update", "--resources", "-", id]).stdin(resources)?;
    let Some((path, value)) = found else {
        if refused {
            call.run()?.exits(1)?.fails_in_one_line()?;
        }
        return Ok(refused);
    };
    call.run()?.ok()?;
    let text = std::fs::read_to_string(&path).during(path.display())?;
    let says = |line: &str| value.split(' ').all(|word| line.split_whitespace().any(|other| other == word));
    if text.lines().any(says) {
        return Ok(true);
    }
    Err(Failure::new(format!("{} says {text:?}, not {value}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// The table as docs/cgroups.md has it. On a hybrid host, as most are, v2 has the controllers that no v1 hierarchy has;
    /// on the machines of these tests that is hugetlb.
    fn markdown() -> String {
        let cell = |place: &Place| match place {
            File(_, file, value) => format!("`{file}`: `{value}`"),
            Refused => "an error".to_owned(),
        };
        let row = |(resources, v1, v2): &(&str, Place, Place)| {
            let hybrid = if matches!(v2, File("hugetlb", ..)) { v2 } else { v1 };
            let resources = resources.replace("DEV", r#"{"major":8,"minor":0"#);
            format!("| `{resources}` | {} | {} | {} |\n", cell(v1), cell(hybrid), cell(v2))
        };
        let head = "| `update` | v1 | hybrid | v2 |\n|---|---|---|---|\n";
        head.to_owned() + &TABLE.iter().map(row).collect::<String>()
    }

    /// Every row is JSON.
    fn parsed() -> Vec<Value> {
        let row = |(text, ..): &(&str, Place, Place)| {
            serde_json::from_str(&text.replace("DEV", r#"{"major":8,"minor":0"#)).unwrap_or(json!(null))
        };
        TABLE.iter().map(row).collect()
    }

    #[test]
    fn the_document_has_the_table() {
        assert!(parsed().iter().all(Value::is_object));
        let document = include_str!("../../../docs/cgroups.md");
        let table = markdown();
        assert!(document.contains(&table), "docs/cgroups.md has another table than this:\n{table}");
    }
}
