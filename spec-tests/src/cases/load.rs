//! Many containers: in a row and at the same time.

use std::fs;
use std::time::Duration;

use super::Case;
use crate::failure::{During, Outcome};
use crate::harness::Ctx;
use crate::{ensure, ensure_eq, leftovers};

pub const CASES: &[Case] = &[
    Case::new(
        "load_in_a_row",
        "runtime.md, Delete: create, start, kill, delete again and again leak nothing",
        row,
    )
    .alone()
    .limit(900),
    Case::new(
        "load_in_parallel",
        "runtime.md, Operations: 64 containers at the same time all succeed",
        parallel,
    )
    .alone()
    .limit(300),
    Case::new("load_run", "runtime.md, Delete: run again and again leaks nothing", run).alone().limit(600),
];

fn open_descriptors() -> Outcome<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

fn row(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["sleep"]);
    let before = open_descriptors()?;
    for round in 0..ctx.soak {
        let container = bundle.create(ctx).during(format!("round {round}"))?;
        container.start()?.ok().during(format!("round {round}"))?;
        container.kill("KILL")?.ok().during(format!("round {round}"))?;
        container.wait_for("stopped")?;
        container.delete()?.ok().during(format!("round {round}"))?;
    }
    ensure_eq!(open_descriptors()?, before, "descriptors of the caller");
    let left = leftovers::of_case(ctx)?;
    ensure!(left.is_empty(), "left behind: {}", left.join("; "));
    Ok(())
}

fn run(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.probe(["true"]);
    for round in 0..ctx.soak {
        bundle.run(ctx)?.ok().during(format!("round {round}"))?;
    }
    let left = leftovers::of_case(ctx)?;
    ensure!(left.is_empty(), "left behind: {}", left.join("; "));
    Ok(())
}

fn parallel(ctx: &Ctx) -> Outcome {
    const COUNT: usize = 64;
    let bundles = (0..COUNT).map(|_| ctx.bundle()).collect::<Outcome<Vec<_>>>()?;
    for command in ["create", "start", "state", "kill", "delete"] {
        let calls = bundles.iter().map(|bundle| {
            let mut bundle = bundle.clone();
            bundle.probe(["sleep"]);
            let call = match command {
                "create" => bundle.create_call(ctx, &[])?,
                "kill" => ctx.call(["kill", &bundle.id, "KILL"]),
                "delete" => ctx.call(["delete", "--force", &bundle.id]),
                other => ctx.call([other, &bundle.id]),
            };
            call.limit(Duration::from_secs(120) * ctx.patience).spawn()
        });
        for call in calls.collect::<Outcome<Vec<_>>>()? {
            call.wait()?.ok()?;
        }
    }
    let left = leftovers::of_case(ctx)?;
    ensure!(left.is_empty(), "left behind: {}", left.join("; "));
    Ok(())
}
