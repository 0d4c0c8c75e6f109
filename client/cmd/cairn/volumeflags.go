package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cairn/mount/luks"
	"cairn/mount/volume"
)

// volumeFlags say how a point's volumes are opened. Every command that reads
// files of a point has them.
type volumeFlags struct {
	ignoreLog bool
	keyFiles  []string
	ask       bool

	once sync.Once // several points are opened at a time, and a person is asked once
	opts volume.Options
	err  error
}

func (a *app) addVolumeFlags(cmd *cobra.Command) {
	f, v := cmd.Flags(), &a.volumes
	f.BoolVar(&v.ignoreLog, "ignore-log", false, "open file systems whose log cannot be replayed as they were before it; files may be old or contradict each other")
	f.StringArrayVar(&v.keyFiles, "key-file", nil, "open encrypted volumes with what this file holds, or only one of them with VOLUME=FILE; may be repeated")
	f.BoolVar(&v.ask, "ask-passphrase", false, "ask for the passphrase of encrypted volumes on the terminal, or take the first line of standard input")
}

// maxKeyFile is more than any key file holds; cryptsetup reads 8 MiB at most.
const maxKeyFile = 8 << 20

// options reads key files and asks, the first time it is called.
func (v *volumeFlags) options() (volume.Options, error) {
	v.once.Do(func() { v.opts, v.err = v.read() })
	return v.opts, v.err
}

func (v *volumeFlags) read() (volume.Options, error) {
	o := volume.Options{Keys: new(luks.Keyring)}
	o.IgnoreLog = v.ignoreLog
	for _, arg := range v.keyFiles {
		s, err := readKeyFile(arg)
		if err != nil {
			return o, err
		}
		o.Secrets = append(o.Secrets, s)
	}
	if v.ask {
		b, err := askPassphrase()
		if err != nil {
			return o, err
		}
		o.Secrets = append(o.Secrets, volume.Secret{Bytes: b, From: "passphrase"})
	}
	return o, nil
}

// passphrase asks, if that is wanted, and gives the answer alone.
func (v *volumeFlags) passphrase() ([]byte, error) {
	o, err := v.options()
	if err != nil || !v.ask {
		return nil, err
	}
	return bytes.Clone(o.Secrets[len(o.Secrets)-1].Bytes), nil
}

// readKeyFile reads FILE or VOLUME=FILE. A file whose name holds a "=" is meant
// when it is there.
func readKeyFile(arg string) (volume.Secret, error) {
	name, of := arg, ""
	if vol, file, ok := strings.Cut(arg, "="); ok && !strings.Contains(vol, "/") {
		if _, err := os.Lstat(arg); err != nil {
			name, of = file, vol
		}
	}
	f, err := os.Open(name)
	if err != nil {
		return volume.Secret{}, usageError{fmt.Errorf("--key-file: %w", err)}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	switch {
	case err != nil:
		return volume.Secret{}, fmt.Errorf("--key-file: %w", err)
	case len(b) == 0:
		return volume.Secret{}, usagef("--key-file: %s is empty", name)
	case len(b) > maxKeyFile:
		return volume.Secret{}, usagef("--key-file: %s is larger than %s: that is no key file", name, size(maxKeyFile))
	}
	return volume.Secret{Volume: of, Bytes: b, From: "key file " + filepath.Base(name)}, nil
}

// askPassphrase asks on the terminal without showing what is typed. A passphrase
// never stands on a command line, where every user of the host could read it.
func askPassphrase() ([]byte, error) {
	var b []byte
	var err error
	if onTerminal() {
		fmt.Fprint(os.Stderr, "Passphrase of the encrypted volumes: ")
		b, err = term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(os.Stderr)
	} else {
		b, err = bufio.NewReader(io.LimitReader(os.Stdin, 64<<10)).ReadBytes('\n')
		b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("--ask-passphrase: %w", err)
	case len(b) == 0:
		return nil, usagef("--ask-passphrase: no passphrase was given on standard input")
	}
	return b, nil
}
