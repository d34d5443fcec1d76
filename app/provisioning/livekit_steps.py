"""What the LiveKit steps do at the provider, look for and take back."""

from app.domain.errors import ErrorCode
from app.providers.errors import RejectedError, TransientError
from app.provisioning.context import INBOUND_TRUNK, Result, StepContext


def find_inbound_trunks(ctx: StepContext) -> list[str]:
    """List the LiveKit trunks of ours that have the number."""
    return [trunk.id for trunk in ctx.tools.platform.list_inbound_trunks(ctx.phone_number) if ctx.owns(trunk.metadata)]


def create_inbound_trunk(ctx: StepContext) -> Result:
    """Create the trunk; where one of this agent's own came late and holds the number, adopt that one."""
    try:
        return Result(ctx.tools.platform.create_inbound_trunk(ctx.phone_number, ctx.label).id)
    except RejectedError as error:
        ours = find_inbound_trunks(ctx) if error.code is ErrorCode.LIVEKIT_NUMBER_CONFLICT else []
        if not ours:
            raise
        return Result(ours[0])


def mend_inbound_trunk(ctx: StepContext, trunk_id: str) -> bool:
    """Make the trunk what it was when it was made."""
    return ctx.tools.platform.update_inbound_trunk(trunk_id, ctx.phone_number, ctx.label)


def delete_inbound_trunk(ctx: StepContext, trunk_id: str) -> None:
    """Delete and confirm by list: the delete answers 200 for any id (livekit.md 3)."""
    ctx.tools.platform.delete_trunk(trunk_id)
    ctx.check_time()

    def is_gone() -> bool:
        return all(trunk.id != trunk_id for trunk in ctx.tools.platform.list_inbound_trunks(ctx.phone_number))

    if not ctx.until(is_gone):
        raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "LiveKit still lists the trunk that it deleted.")


def find_dispatch_rules(ctx: StepContext) -> list[str]:
    """List the rules of ours that name our trunk and no other."""
    rules = ctx.tools.platform.list_dispatch_rules(ctx.ids[INBOUND_TRUNK])
    ours = (rule for rule in rules if ctx.owns(rule.name, rule.metadata))
    return [rule.id for rule in ours if rule.trunk_ids == (ctx.ids[INBOUND_TRUNK],)]


def create_dispatch_rule(ctx: StepContext) -> Result:
    """Create the rule."""
    rule = ctx.tools.platform.create_dispatch_rule(ctx.ids[INBOUND_TRUNK], ctx.agent_name, ctx.job_metadata, ctx.label)
    return Result(rule.id)


def mend_dispatch_rule(ctx: StepContext, rule_id: str) -> bool:
    """Make the rule name our trunk and the agent, in place."""
    return ctx.tools.platform.update_dispatch_rule(
        rule_id, ctx.ids[INBOUND_TRUNK], ctx.agent_name, ctx.job_metadata, ctx.label
    )


def delete_dispatch_rule(ctx: StepContext, rule_id: str) -> None:
    """Delete the rule."""
    ctx.tools.platform.delete_dispatch_rule(rule_id)
