package images

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// dockerConfig is the image configuration (OCI image specification 1.1,
// "Image Configuration"), as far as Docker needs it.
type dockerConfig struct {
	Architecture string    `json:"architecture"`
	OS           string    `json:"os"`
	Created      time.Time `json:"created"`
	Config       struct {
		Env []string
		Cmd []string
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
	History []dockerHistory `json:"history"`
}

type dockerHistory struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

// dockerManifest is one entry of manifest.json in the format of "docker save".
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// writeDockerArchive writes the tree below root as a one-layer image that
// "docker load" takes. Equal trees give equal bytes.
func writeDockerArchive(file, root, tag string, at time.Time) (err error) {
	var layer bytes.Buffer
	if err := writeTar(&layer, root, at); err != nil {
		return err
	}
	sum := sha256.Sum256(layer.Bytes())
	config, err := dockerImageConfig(hex.EncodeToString(sum[:]), at)
	if err != nil {
		return err
	}
	id := sha256.Sum256(config)
	configName, layerName := hex.EncodeToString(id[:])+".json", hex.EncodeToString(sum[:])+".tar"
	manifest, err := json.Marshal([]dockerManifest{{Config: configName, RepoTags: []string{tag}, Layers: []string{layerName}}})
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	t := tar.NewWriter(f)
	for _, e := range []struct {
		name string
		data []byte
	}{{configName, config}, {layerName, layer.Bytes()}, {"manifest.json", manifest}} {
		h := &tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.data)), ModTime: at, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if err := t.WriteHeader(h); err != nil {
			return fmt.Errorf("write docker archive: %w", err)
		}
		if _, err := t.Write(e.data); err != nil {
			return fmt.Errorf("write docker archive: %w", err)
		}
	}
	return t.Close()
}

func dockerImageConfig(layer string, at time.Time) ([]byte, error) {
	c := dockerConfig{Architecture: "amd64", OS: "linux", Created: at.UTC()}
	c.Config.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	c.Config.Cmd = []string{"/bin/sleep", "infinity"}
	c.RootFS.Type = "layers"
	c.RootFS.DiffIDs = []string{"sha256:" + layer}
	c.History = []dockerHistory{{Created: at.UTC(), CreatedBy: "hookbed"}}
	return json.Marshal(c)
}
