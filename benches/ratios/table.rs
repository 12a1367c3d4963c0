//! The result: one row a job, medians over rounds, ratios of medians.

use std::fmt::Write as _;

use crate::machine::Cost;

/// What a job should reach. Ratios are coupond's cost over the rival's: below 1 is better.
#[derive(Clone, Copy, Debug, Default)]
pub struct Goal {
    /// Most wall time, as a ratio.
    pub wall: Option<f64>,
    /// Most CPU time, as a ratio.
    pub cpu: Option<f64>,
    /// Most resident memory of the daemon, bytes.
    pub peak: Option<u64>,
}

/// The goal of the daemon's memory, whatever it does.
pub const PEAK: u64 = 256 << 20;

impl Goal {
    /// So many times faster.
    pub fn faster(times: f64) -> Self {
        Self { wall: Some(1.0 / times), cpu: None, peak: Some(PEAK) }
    }

    fn says(&self) -> String {
        let wall = self.wall.map(|most| match most {
            most if most < 0.99 => format!("wall ≤ {most:.2} ({:.0} times faster)", 1.0 / most),
            most => format!("wall ≤ {most:.2}"),
        });
        let cpu = self.cpu.map(|most| format!("CPU ≤ {most:.2}"));
        let peak = self.peak.map(|most| format!("peak ≤ {} MiB", most >> 20));
        [wall, cpu, peak].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// coupond's.
    Ours,
    /// The rival's.
    Theirs,
}

/// Both, in the order of this round: who begins alternates, so that neither always comes upon a machine that the other
/// has warmed up.
pub fn turns(round: usize) -> [Turn; 2] {
    if round.is_multiple_of(2) { [Turn::Ours, Turn::Theirs] } else { [Turn::Theirs, Turn::Ours] }
}

/// One job, done by both in every round.
#[derive(Clone, Debug)]
pub struct Job {
    /// What was done.
    pub name: String,
    /// By whom else. Empty: nobody.
    pub rival: &'static str,
    /// coupond's costs, a round each.
    pub ours: Vec<Cost>,
    /// The rival's.
    pub theirs: Vec<Cost>,
    /// What is aimed at.
    pub goal: Goal,
    /// What cannot be said as ratios of these costs: text and whether it is well.
    pub finding: Option<(String, bool)>,
}

impl Job {
    /// A job that nobody has done yet.
    pub fn new(name: impl Into<String>, rival: &'static str, goal: Goal) -> Self {
        Self { name: name.into(), rival, ours: Vec::new(), theirs: Vec::new(), goal, finding: None }
    }

    fn ratio(&self, of: impl Fn(&Cost) -> f64) -> Option<f64> {
        let (ours, theirs) = (median(&self.ours, &of)?, median(&self.theirs, &of)?);
        (theirs > 0.0).then(|| ours / theirs)
    }

    /// The medians of coupond's costs.
    pub fn ours_median(&self) -> Option<Cost> {
        let (wall, cpu) = (median(&self.ours, |cost| cost.wall)?, median(&self.ours, |cost| cost.cpu)?);
        Some(Cost { wall, cpu, peak: self.peak().unwrap_or(0) })
    }

    /// The most memory of all rounds.
    pub fn peak(&self) -> Option<u64> {
        self.ours.iter().map(|cost| cost.peak).max().filter(|peak| *peak > 0)
    }

    /// Whether the goal was met; `None` where there is none.
    pub fn met(&self) -> Option<bool> {
        let (wall, cpu) = (self.ratio(|cost| cost.wall), self.ratio(|cost| cost.cpu));
        let within = |most: Option<f64>, is: Option<f64>| Some(is? <= most?);
        let peak = self.goal.peak.and_then(|most| Some(self.peak()? <= most));
        let all =
            [within(self.goal.wall, wall), within(self.goal.cpu, cpu), peak, self.finding.as_ref().map(|it| it.1)];
        all.into_iter().flatten().reduce(|met, more| met && more)
    }

    /// The job in one line, as soon as it is done.
    pub fn said(&self) -> String {
        let times = |costs: &[Cost]| costs.iter().map(|cost| format!("{:.2}", cost.wall)).collect::<Vec<_>>().join(" ");
        let rival = if self.theirs.is_empty() { String::new() } else { format!(" against {}", times(&self.theirs)) };
        let met = self.met().map_or("", |met| if met { "; met" } else { "; not met" });
        let finding = self.finding.as_ref().map_or(String::new(), |(text, _)| format!("; {text}"));
        format!("{}: wall {}{rival}{finding}{met}", self.name, times(&self.ours))
    }

    fn row(&self) -> String {
        let seconds = |of: Option<f64>| of.map_or(String::new(), |seconds| format!("{seconds:.2} s"));
        let ratio = |of: Option<f64>| of.map_or(String::new(), |ratio| format!("**{ratio:.2}**"));
        let wall = |costs: &[Cost]| seconds(median(costs, |cost| cost.wall));
        let cpu = |costs: &[Cost]| seconds(median(costs, |cost| cost.cpu));
        let peak = self.peak().map_or(String::new(), |peak| format!("{} MiB", peak >> 20));
        let met = self.met().map_or("", |met| if met { "yes" } else { "**no**" });
        let finding = self.finding.as_ref().map_or("", |(text, _)| text.as_str());
        let goal =
            [finding, &self.goal.says()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
        let cells = [
            self.name.clone(),
            wall(&self.ours),
            cpu(&self.ours),
            peak,
            self.rival.to_owned(),
            wall(&self.theirs),
            cpu(&self.theirs),
            ratio(self.ratio(|cost| cost.wall)),
            ratio(self.ratio(|cost| cost.cpu)),
            goal,
            met.to_owned(),
        ];
        format!("| {} |", cells.join(" | "))
    }
}

fn median(costs: &[Cost], of: impl Fn(&Cost) -> f64) -> Option<f64> {
    let mut values: Vec<f64> = costs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    let lower = if values.len().is_multiple_of(2) { *values.get(middle - 1)? } else { upper };
    Some(f64::midpoint(lower, upper))
}

/// The table in Markdown.
pub fn render(jobs: &[Job]) -> String {
    let mut text =
        "| job | coupond wall | CPU | peak RSS | rival | wall | CPU | wall ratio | CPU ratio | goal | met |\n\
                    |---|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for job in jobs {
        let _ = writeln!(text, "{}", job.row());
    }
    text
}
