"""What runs on a schedule, and tells which time it was run for."""

from datetime import datetime, timedelta

from flytekit import CronSchedule, FixedRate, LaunchPlan, task, workflow


@task
def tell(kickoff: datetime) -> datetime:
    return kickoff


@workflow
def told(kickoff: datetime) -> datetime:
    return tell(kickoff=kickoff)


by_cron = LaunchPlan.get_or_create(
    told,
    name="told_by_cron",
    schedule=CronSchedule(schedule="* * * * *", kickoff_time_input_arg="kickoff"),
)
by_rate = LaunchPlan.get_or_create(
    told,
    name="told_by_rate",
    schedule=FixedRate(duration=timedelta(minutes=1), kickoff_time_input_arg="kickoff"),
)
