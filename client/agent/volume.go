package agent

import (
	"context"
	"fmt"

	"cairn/client/source"
)

// openVolume gives a writer over an existing volume.
var openVolume = func(_ context.Context, path string, _ int64) (source.DiskWriter, error) {
	return nil, fmt.Errorf("%w: %s: restores over volumes are not built yet", source.ErrRestoreUnsupported, path)
}
