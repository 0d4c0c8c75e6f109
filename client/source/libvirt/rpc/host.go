package rpc

import "context"

// LibVersion returns the daemon's version.
func (c *Conn) LibVersion(ctx context.Context) (v Version, err error) {
	err = c.call(ctx, procConnectLibVersion, "", args(), func(d *decoder) { v = Version(d.u64()) })
	return v, err
}

// HypervisorVersion returns the version of QEMU.
func (c *Conn) HypervisorVersion(ctx context.Context) (v Version, err error) {
	err = c.call(ctx, procConnectVersion, "", args(), func(d *decoder) { v = Version(d.u64()) })
	return v, err
}

// Capabilities returns what the host and its emulators can do, as XML.
func (c *Conn) Capabilities(ctx context.Context) (xml string, err error) {
	err = c.call(ctx, procConnectCapabilities, "", args(), func(d *decoder) { xml = d.str() })
	return xml, err
}

// VolumePath returns the path of a volume in a storage pool, for disks of type
// volume; ErrNoStoragePool, ErrNoStorageVolume.
func (c *Conn) VolumePath(ctx context.Context, pool, volume string) (path string, err error) {
	var uuid UUID
	err = c.call(ctx, procPoolLookupByName, pool, args().str(pool), func(d *decoder) { pool, uuid = d.str(), d.uuid() })
	if err != nil {
		return "", err
	}
	var key string
	err = c.call(ctx, procVolLookupByName, volume, args().str(pool).uuid(uuid).str(volume), func(d *decoder) {
		pool, volume, key = d.str(), d.str(), d.str()
	})
	if err != nil {
		return "", err
	}
	err = c.call(ctx, procVolPath, volume, args().str(pool).str(volume).str(key), func(d *decoder) { path = d.str() })
	return path, err
}
