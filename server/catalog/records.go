package catalog

import (
	"errors"
	"strings"
	"time"

	pb "cairn/proto/cairn/v1"
)

// The keys of records that have resource names.

func vaultKey(name string) string   { return "vault/" + strings.Join(IDs(name), "/") }
func hostKey(name string) string    { return "host/" + strings.Join(IDs(name), "/") }
func machineKey(name string) string { return "machine/" + strings.Join(IDs(name), "/") }

// jobKey puts the job's id before the vault's, so that jobs are in the order of
// time.
func jobKey(kind, name string) string {
	p := IDs(name)
	return kind + "/" + p[0] + "/" + p[2] + "/" + p[1]
}

// Vault reads a vault's entry by its resource name.
func (r Reader) Vault(name string) (*pb.Vault, error) {
	return getProto[pb.Vault](r, vaultKey(name))
}

// Vaults calls fn for the vaults of all subscriptions, by name.
func (r Reader) Vaults(fn func(*pb.Vault) bool) error {
	return scanProto(r, "vault/", "", false, fn)
}

// PutVault writes a vault's entry.
func (t *Tx) PutVault(v *pb.Vault) error { return t.putProto(vaultKey(v.Name), v) }

// DeleteVault removes a vault's entry. Its jobs are removed by themselves.
func (t *Tx) DeleteVault(name string) error { return t.delete(vaultKey(name)) }

// Trash lists the uids of vaults whose directories are to be removed.
func (r Reader) Trash() (uids []string, err error) {
	err = r.scan("trash/", "", false, func(key string, _ []byte) (bool, error) {
		uids = append(uids, strings.TrimPrefix(key, "trash/"))
		return true, nil
	})
	return uids, err
}

// PutTrash notes that a vault's directory is to be removed.
func (t *Tx) PutTrash(uid string) error {
	return t.batch.Set([]byte("trash/"+uid), []byte{kindEmpty}, nil)
}

// DeleteTrash notes that a vault's directory is gone.
func (t *Tx) DeleteTrash(uid string) error { return t.delete("trash/" + uid) }

// Host reads a host by its resource name.
func (r Reader) Host(name string) (*pb.Host, error) { return getProto[pb.Host](r, hostKey(name)) }

// Hosts calls fn for the hosts of a subscription by id, from behind the resource
// name after.
func (r Reader) Hosts(subscription, after string, fn func(*pb.Host) bool) error {
	if after != "" {
		after = hostKey(after)
	}
	return scanProto(r, "host/"+subscription+"/", after, false, fn)
}

// AllHosts calls fn for the hosts of all subscriptions, by name.
func (r Reader) AllHosts(fn func(*pb.Host) bool) error {
	return scanProto(r, "host/", "", false, fn)
}

// PutHost writes a host.
func (t *Tx) PutHost(h *pb.Host) error { return t.putProto(hostKey(h.Name), h) }

// DeleteHost removes a host and its machines.
func (t *Tx) DeleteHost(name string) error {
	var machines []string
	if err := t.Machines(name, "", func(m *pb.Machine) bool {
		machines = append(machines, m.Name)
		return true
	}); err != nil {
		return err
	}
	for _, m := range machines {
		if err := t.DeleteMachine(m); err != nil {
			return err
		}
	}
	return t.delete(hostKey(name))
}

// Machine reads a machine by its resource name.
func (r Reader) Machine(name string) (*pb.Machine, error) {
	return getProto[pb.Machine](r, machineKey(name))
}

// Machines calls fn for the machines of a host, given by its resource name, or of
// all hosts of a subscription, given by its own, from behind the resource name
// after.
func (r Reader) Machines(parent, after string, fn func(*pb.Machine) bool) error {
	if after != "" {
		after = machineKey(after)
	}
	return scanProto(r, machineKey(parent)+"/", after, false, fn)
}

// PutMachine writes a machine.
func (t *Tx) PutMachine(m *pb.Machine) error { return t.putProto(machineKey(m.Name), m) }

// DeleteMachine removes a machine.
func (t *Tx) DeleteMachine(name string) error { return t.delete(machineKey(name)) }

// Job reads a job by its resource name.
func (r Reader) Job(name string) (*pb.Job, error) { return getProto[pb.Job](r, jobKey("job", name)) }

// Jobs calls fn for the jobs of a subscription ("" for all) and a vault's id (""
// for all), newest first, from behind the resource name after.
func (r Reader) Jobs(subscription, vault, after string, fn func(*pb.Job) bool) error {
	prefix := "job/"
	if subscription != "" {
		prefix += subscription + "/"
	}
	if after != "" {
		after = jobKey("job", after)
	}
	return r.scan(prefix, after, true, func(key string, value []byte) (bool, error) {
		if vault != "" && !strings.HasSuffix(key, "/"+vault) {
			return true, nil
		}
		var j pb.Job
		if err := DecodeProto(value, &j); err != nil {
			return false, err
		}
		return fn(&j), nil
	})
}

// PutJob writes a job.
func (t *Tx) PutJob(j *pb.Job) error { return t.putProto(jobKey("job", j.Name), j) }

// DeleteJob removes a job and all that belongs to it.
func (t *Tx) DeleteJob(name string) error {
	return errors.Join(t.delete(jobKey("job", name)), t.delete(jobKey("lease", name)), t.delete(jobKey("restore", name)))
}

// Restore reads what a RESTORE job is to do, by the job's resource name.
func (r Reader) Restore(job string) (*pb.RestoreRequest, error) {
	return getProto[pb.RestoreRequest](r, jobKey("restore", job))
}

// PutRestore writes what a RESTORE job is to do.
func (t *Tx) PutRestore(job string, r *pb.RestoreRequest) error {
	return t.putProto(jobKey("restore", job), r)
}

// Lease says who holds a job. It stays when the job has ended, so that a report
// that is repeated is known again.
type Lease struct {
	// Token is the SHA-256 of the lease token.
	Token []byte `json:"token"`
	// Expire is when the lease ran out unless it was renewed since.
	Expire time.Time `json:"expire"`
	// Instance is what the agent's process called itself; may be empty.
	Instance string `json:"instance,omitempty"`
	// Reported is whether the agent has been heard of since it got the job.
	Reported bool `json:"reported,omitempty"`
}

// Lease reads the lease of a job, by the job's resource name.
func (r Reader) Lease(job string) (l Lease, err error) {
	err = r.get(jobKey("lease", job), func(b []byte) error { return DecodeJSON(b, &l) })
	return l, err
}

// PutLease writes the lease of a job.
func (t *Tx) PutLease(job string, l Lease) error { return t.putJSON(jobKey("lease", job), l) }

// DeleteLease removes the lease of a job.
func (t *Tx) DeleteLease(job string) error { return t.delete(jobKey("lease", job)) }
