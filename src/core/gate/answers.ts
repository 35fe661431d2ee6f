/** Findings → the answers of a gate: can what somebody wants to start, start on every node of its pool now? */
import type { Answer, Gate, GateAnswer, GateQuestion, Refusal } from '../model/gate.ts';
import { countOf } from '../limit.ts';
import type { Limit } from '../model/plan.ts';
import type { GateSettings } from '../model/settings.ts';
import { cloneAnswer } from './clone.ts';
import type { PlacedQuestion } from './questions.ts';
import { runAnswer } from './run.ts';
import { byError, type GateFacts, type NodeFacts } from './say.ts';

/** Answers every question on every node that it is about. */
export function judgeGate(questions: PlacedQuestion[], facts: GateFacts, settings: GateSettings): Omit<Gate, 'errors'> {
  const findings = new Map(facts.findings.map((of) => [of.node, of]));
  const nodes = new Map(facts.observations.map((observation) => [observation.node.name, observation]));
  const factsOf = (name: string): NodeFacts => {
    const [observation, of] = [nodes.get(name), findings.get(name)];
    if (observation === undefined || of === undefined)
      throw new Error(`nobody looked at ${name}, which is asked about`);
    return { observation, findings: of };
  };
  const known = new Map<string, GateAnswer>();
  const answered = questions.map((question): GateQuestion => {
    const { nodes: names, forcePull, ...asked } = question;
    const answers = names.map((name) => {
      const key = JSON.stringify([name, question.mode, question.image, forcePull]);
      const answer = known.get(key) ?? answerOn(factsOf(name), question, facts, settings.require === 'in-sync');
      known.set(key, answer);
      return answer;
    });
    return { ...asked, ...outcomeOf(answers, question.nodeName, settings.minReady), nodes: answers };
  });
  return {
    pass: answered.every(({ outcome }) => outcome === 'pass'),
    ...shownSettings(settings),
    questions: answered,
  };
}

/** The gate that had nothing to ask, because what it was given could not be used. */
export function refusedGate(errors: Refusal[], settings: GateSettings): Gate {
  return { pass: false, ...shownSettings(settings), questions: [], errors };
}

function shownSettings({ minReady, require }: GateSettings): Pick<Gate, 'minReady' | 'require'> {
  return { minReady: `${minReady.value}${minReady.percent ? '%' : ''}`, require };
}

/**
 * Passed where enough nodes say yes; blocked where not even the nodes that are not known could make it enough. A share
 * is rounded up. A number that the pool does not have is never reached; of one node that is named, one is enough.
 */
function outcomeOf(
  answers: GateAnswer[],
  nodeName: string | null,
  minReady: Limit,
): Pick<GateQuestion, 'ready' | 'needed' | 'outcome'> {
  const those = (wanted: Answer): number => answers.filter(({ answer }) => answer === wanted).length;
  const ready = those('yes');
  const asked = countOf(minReady, answers.length);
  const needed = nodeName === null ? asked : Math.min(asked, 1);
  if (ready >= needed) return { ready, needed, outcome: 'pass' };
  return { ready, needed, outcome: ready + those('unknown') >= needed ? 'incomplete' : 'blocked' };
}

function answerOn(node: NodeFacts, question: PlacedQuestion, facts: GateFacts, inSync: boolean): GateAnswer {
  const { observation } = node;
  const said =
    observation.observed === null
      ? byError(observation.error, 'the node could not be read')
      : question.mode === 'clone'
        ? cloneAnswer(node, question.image, facts, inSync)
        : runAnswer(node, question, facts, inSync);
  return { node: observation.node.name, ...said };
}
