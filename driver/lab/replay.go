package lab

import (
	"context"
	"fmt"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
)

// Replay is a lab whose steps a sealed guest executed already: it
// answers from the guest's results. Trials that run on it must do what the block had
// the guest do, in the same order.
func Replay(block bundle.Sealed, replies []bundle.SealedReply) (*Lab, error) {
	p := &replay{block: block, left: map[turn][]bundle.SealedReply{}, used: map[int]bool{}}
	facts := map[string]map[string]string{}
	for _, r := range replies {
		switch r.Phase {
		case bundle.SealedFacts:
			for _, n := range []string{datapath.NodeAt(1).Name, datapath.NodeAt(2).Name} {
				facts[n] = r.Reply.Facts
			}
		default:
			at := turn{r.Setup, r.Trial}
			p.left[at] = append(p.left[at], r)
		}
	}
	if len(facts) == 0 {
		return nil, fmt.Errorf("results of the sealed guest begin without facts")
	}
	return &Lab{provider: p, env: Environment{Nodes: facts}, Timings: Timings{}}, nil
}

// turn is a setup of the block and a trial of it, -1 for the setup itself.
type turn struct{ setup, trial int }

// replay is at one setup, and in it at one trial.
type replay struct {
	block bundle.Sealed
	left  map[turn][]bundle.SealedReply // not used yet
	used  map[int]bool
	at    turn
}

// SetupName identifies what a setup applies: its rendered steps and files.
func SetupName(s datapath.Setup) (string, error) {
	b := bundle.Bundle{Schema: bundle.Schema, Files: s.Files, Steps: s.Apply}
	return b.Digest()
}

// Open has nothing to do: Replay makes the lab.
func (p *replay) Open(context.Context, Timings) (Environment, error) { return Environment{}, nil }

// Begin finds the setup in the block.
func (p *replay) Begin(_ context.Context, s datapath.Setup) error {
	name, err := SetupName(s)
	if err != nil {
		return err
	}
	for i, setup := range p.block.Setups {
		if setup.Name == name && !p.used[i] {
			p.used[i], p.at = true, turn{i, -1}
			// The nodes' wiring is the sealed guest's own first chunk.
			_, err := p.next(string(bundle.Apply))
			return err
		}
	}
	return fmt.Errorf("the block has no setup %.12s left", name)
}

// next is the reply to the next chunk of a phase.
func (p *replay) next(phases ...string) (bundle.Reply, error) {
	left := p.left[p.at]
	if len(left) == 0 {
		return bundle.Reply{}, fmt.Errorf("the sealed guest's results end at setup %d, trial %d", p.at.setup, p.at.trial)
	}
	r := left[0]
	for _, phase := range phases {
		if r.Phase == phase {
			p.left[p.at] = left[1:]
			return r.Reply, replyFault("sealed guest", r.Reply)
		}
	}
	return bundle.Reply{}, fmt.Errorf("the sealed guest was at %s, not at %v", r.Phase, phases)
}

// Helper is the one helper of the sealed guest.
func (p *replay) Helper(string) (Helper, error) { return p, nil }

// Exec answers with the reply to the next chunk.
func (p *replay) Exec(_ context.Context, _ string, _ map[string]bundle.File, steps []bundle.Step) (bundle.Reply, error) {
	reply, err := p.next(string(bundle.Apply), string(bundle.Prove), string(bundle.Run))
	if err != nil {
		return reply, err
	}
	if err := answers(reply.Results, steps); err != nil {
		return bundle.Reply{}, fmt.Errorf("sealed guest: %w", err)
	}
	return reply, nil
}

// Mark goes on to the next trial.
func (p *replay) Mark(context.Context) (int, error) {
	p.at.trial++
	return p.at.trial, nil
}

// UndoTo answers with the reply to undoing a trial.
func (p *replay) UndoTo(context.Context, int) error {
	_, err := p.next(bundle.SealedUndo)
	return err
}

// End answers with the reply to undoing the setup.
func (p *replay) End(context.Context, datapath.Setup) error {
	p.at.trial = -1
	_, err := p.next(bundle.SealedClose)
	return err
}

// Close has nothing to do: the guest has ended.
func (p *replay) Close(context.Context) error { return nil }
