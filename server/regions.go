package server

import (
	"slices"
	"strings"

	pb "cairn/proto/cairn/v1"
)

// region checks a region's name; empty means the server's own. Error:
// UNKNOWN_REGION.
func (s *Server) region(path, name string) (string, error) {
	if name == "" {
		return s.opts.Regions[0], nil
	}
	if slices.Contains(s.opts.Regions, name) {
		return name, nil
	}
	list := strings.Join(s.regions(), ", ")
	var f fields
	f.add(path, "%s is not a region of this server; it has: %s", quote(name), list)
	e := newError(pb.ErrorReason_ERROR_REASON_UNKNOWN_REGION, "region %s does not exist here; choose one of: %s", quote(name), list).
		with("regions", strings.Join(s.regions(), ","))
	e.Fields = f.violations
	return "", e
}

// regions are the regions of the server, sorted.
func (s *Server) regions() []string { return slices.Sorted(slices.Values(s.opts.Regions)) }
