/** The canary VM: a snapshot on the new content is cloned, seen running, and removed. */
import { cloneCanary } from '../../node/change.ts';
import type { NodeSession } from '../../node/session.ts';
import { fault, ReconcileError } from '../../core/errors.ts';
import type { CanaryVm } from '../../core/model/plan.ts';
import { localSnapshotName } from '../../core/reference.ts';
import type { Connection, Ssh } from '../../ssh/client.ts';
import { withDeadline } from '../../system/deadline.ts';

/** How long a second look at a canary may take to get a connection, in ms: it is not the run's to abort. */
const CONNECT_MS = 60_000;

/**
 * Clones snapshots in turn.
 * @param users the snapshots that stand on the new content, as the config and reports call them
 * @throws ReconcileError CLONE_FAILED, CANARY_LEFT
 */
export async function cloneCanaries(vm: CanaryVm, users: string[], session: NodeSession, ssh: Ssh): Promise<void> {
  const wanted = users.filter((snapshot) => vm.snapshots.includes(snapshot));
  const chosen = wanted.length > 0 || !vm.isAnyGood ? wanted : users.slice(0, 1);
  for (const snapshot of chosen) await cloneOnce(vm, snapshot, session, ssh);
}

async function cloneOnce(
  { name, timeoutMs, extraArgs }: CanaryVm,
  snapshot: string,
  session: NodeSession,
  ssh: Ssh,
): Promise<void> {
  const { node } = session;
  const late = (): ReconcileError =>
    fault('SSH_TIMEOUT', { host: node.host, what: 'connecting again', afterMs: CONNECT_MS });
  const again = (): Promise<Connection> =>
    withDeadline({ timeout: { afterMs: CONNECT_MS, reason: late } }, (stop) => ssh.connect(node, stop));
  const canary = { name, snapshot: localSnapshotName(snapshot), extraArgs };
  for (const isLast of [false, true]) {
    const { clone, vanished, left } = await cloneCanary(session, again, canary, timeoutMs);
    if (left !== null) {
      const message = clone === null ? left.message : `${clone.message}; ${left.message}`;
      throw new ReconcileError({ ...left, message });
    }
    if (clone === null) return;
    if (!vanished || isLast) throw new ReconcileError(clone);
  }
}
