package lab

import (
	"context"
	"fmt"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
)

// Replay is a lab whose steps were executed already, by a sealed guest: it
// answers from the guest's results. Whoever runs trials on it must ask for what
// the block told the guest to do.
func Replay(block bundle.Sealed, replies []bundle.SealedReply, env map[string]any) (*Lab, error) {
	p := &replay{block: block, left: map[turn][]bundle.SealedReply{}, used: map[int]bool{}}
	l := &Lab{provider: p, env: env, facts: map[string]map[string]string{}, Timings: map[string]float64{}}
	for _, r := range replies {
		switch r.Phase {
		case bundle.SealedFacts:
			for _, n := range []string{datapath.NodeAt(1).Name, datapath.NodeAt(2).Name} {
				l.facts[n] = r.Reply.Facts
			}
		default:
			at := turn{r.Setup, r.Trial}
			p.left[at] = append(p.left[at], r)
		}
	}
	if len(l.facts) == 0 {
		return nil, fmt.Errorf("results of the sealed guest begin without facts")
	}
	return l, nil
}

// turn is a setup of the block and a trial of it, -1 for the setup itself.
type turn struct{ setup, trial int }

// replay is at one setup, and in it at one trial.
type replay struct {
	block bundle.Sealed
	left  map[turn][]bundle.SealedReply // not asked for yet
	used  map[int]bool
	at    turn
}

// SetupName identifies what a setup applies: its rendered steps and files.
func SetupName(s datapath.Setup) (string, error) {
	b := bundle.Bundle{Schema: bundle.Schema, Files: s.Files, Steps: s.Apply}
	return b.Digest()
}

func (p *replay) begin(_ context.Context, s datapath.Setup) error {
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
			return r.Reply, replyFault(r.Reply)
		}
	}
	return bundle.Reply{}, fmt.Errorf("the sealed guest was at %s, not at %v", r.Phase, phases)
}

func replyFault(r bundle.Reply) error {
	if r.Error == "" {
		return nil
	}
	return &Fault{Kind: r.Fault, Err: fmt.Errorf("sealed guest: %s", r.Error)}
}

func (p *replay) session(string) (conversation, error) { return p, nil }

func (p *replay) exec(context.Context, string, map[string]bundle.File, []bundle.Step) (bundle.Reply, error) {
	return p.next(string(bundle.Apply), string(bundle.Prove), string(bundle.Run))
}

func (p *replay) mark(context.Context) (int, error) {
	p.at.trial++
	return p.at.trial, nil
}

func (p *replay) undoTo(context.Context, int) error {
	_, err := p.next(bundle.SealedUndo)
	return err
}

func (p *replay) end(context.Context, datapath.Setup) error {
	p.at.trial = -1
	_, err := p.next(bundle.SealedClose)
	return err
}

func (p *replay) close(context.Context) error { return nil }

func (p *replay) detach() error { return fmt.Errorf("a sealed guest has ended") }
