package source

import "fmt"

// problem is an error whose text stands alone, so that it can be shown as a
// Problem, and which errors.Is finds to be its kind.
type problem struct {
	kind error // one of the package's sentinels
	text string
}

func (p *problem) Error() string { return p.text }
func (p *problem) Unwrap() error { return p.kind }

func unusable(format string, args ...any) error {
	return &problem{ErrUnusable, fmt.Sprintf(format, args...)}
}

func corrupt(format string, args ...any) error {
	return &problem{ErrCorrupt, fmt.Sprintf(format, args...)}
}

func inUse(path string) error {
	return &problem{ErrInUse, fmt.Sprintf("%s: image is in use: another process (a running VM?) has it open for writing; stop it first", path)}
}
