package source

import (
	"context"
	"errors"
)

// Images is the Source of image files in a directory.
type Images struct{ dir string }

var _ Source = (*Images)(nil)

// NewImages returns the source of the images in dir.
func NewImages(dir string) (*Images, error) { return &Images{dir: dir}, nil }

// Machines implements Source.
func (s *Images) Machines(ctx context.Context) ([]Machine, error) {
	return nil, errors.New("not implemented")
}

// Watch implements Source.
func (s *Images) Watch(ctx context.Context, changed func()) error {
	<-ctx.Done()
	return nil
}

// Snapshot implements Source.
func (s *Images) Snapshot(ctx context.Context, machineID string, o SnapshotOptions) (Snapshot, error) {
	return nil, errors.New("not implemented")
}
