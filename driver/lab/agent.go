package lab

import (
	"context"
	"fmt"
	"strings"

	"hookbed/driver/bundle"
	"hookbed/images"
	userimage "hookbed/images/container"
)

// Cilium is the image of Cilium's agent in env.json.
type Cilium struct {
	ID string `json:"id"` // digest of the image's configuration
	// Version as the image's label says. The step that starts the agent reads the program's own.
	Version string `json:"version,omitempty"`
}

// agentImage is the agent's image on this computer; zero where no arm needs it.
type agentImage struct{ image images.Container }

func (c Config) needsAgent() bool { return c.Cilium.Source != "" }

// idLength is how much of an image's digest tells files of images apart in factors.
const idLength = 12

// ShortID is the part of an image's digest that factors have.
func ShortID(id string) string {
	_, hex, _ := strings.Cut(id, ":")
	return hex[:min(idLength, len(hex))]
}

// ensureAgent gets and unpacks the image that the experiment names, and holds it against what the
// plan says it is: a file may be another one since.
func ensureAgent(ctx context.Context, c Config) (agentImage, error) {
	if !c.needsAgent() {
		return agentImage{}, nil
	}
	from, err := userimage.Parse(c.Cilium.Source, "")
	if err != nil {
		return agentImage{}, err
	}
	img, err := c.Store.EnsureContainer(ctx, from)
	if err != nil {
		return agentImage{}, err
	}
	if from.Ref == "" && !strings.HasSuffix(c.Cilium.Level, "@"+ShortID(img.ID)) {
		return agentImage{}, fmt.Errorf("image %s is %s now, and %s in the plan; put the old file back, or begin a new run", from.Path, ShortID(img.ID), c.Cilium.Level)
	}
	return agentImage{img}, nil
}

// roots are those of Hello, of an agent that is needed.
func (a agentImage) roots(cilium, etcd string) map[string]string {
	if a.image.ID == "" {
		return nil
	}
	return map[string]string{bundle.RootCilium: cilium, bundle.RootEtcd: etcd}
}

// environment is what env.json has of the image.
func (a agentImage) environment() *Cilium {
	if a.image.ID == "" {
		return nil
	}
	return &Cilium{ID: a.image.ID, Version: a.image.Version}
}
