package lvm2

import (
	"fmt"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
)

// cache is a volume in front of which a faster one stands. With writethrough and
// passthrough the origin has everything, and the cache is left alone.
func (b *builder) cache(s *segment) (blockdev.Device, error) {
	origin := b.volume(s.str("origin"))
	if origin.err != nil {
		return nil, origin.err
	}
	name := s.str("cache_pool")
	mode := s.str("cache_mode")
	if pool := b.lvByName[name]; mode == "" && pool != nil && len(pool.segments) == 1 {
		mode = pool.segments[0].str("cache_mode")
	}
	switch mode {
	case "writethrough", "passthrough":
		return origin.dev, nil
	}
	return nil, fmt.Errorf("cache with mode %q: %w", mode, filesys.ErrUnsupported)
}
