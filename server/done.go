package server

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
	"cairn/server/job"
)

// What is done to a protected item is written in its vault's store, and the job
// that tells of it belongs in the catalog. So that there is never one without the
// other, the job is written in the store too, in one batch with the effect and the
// answer to the request id, and taken from there into the catalog: at once, or when
// the server, or the vault, is there again.

// deed is a job that tells of something that was done, and the answer that says so.
type deed struct {
	job *pb.Job
	// muts are to be applied with the effect.
	muts []blockstore.Mutation
}

// newDeed prepares a job of a vault's item. answer gives the call's answer with
// that job; k keeps it.
func (s *Server) newDeed(v *Vault, it *pb.ProtectedItem, op pb.JobOperation, k keep, answer func(*pb.Job) proto.Message) (deed, error) {
	j, err := s.jobs.Prepare(job.Spec{Vault: v.Name.String(), Operation: op, ProtectedItem: it.Name, Machine: it.Machine})
	if err != nil {
		return deed{}, err
	}
	muts, err := k.inVault(answer(j))
	if err != nil {
		return deed{}, err
	}
	m, err := recordMutation(doneKey(j), j)
	return deed{j, append(muts, m)}, err
}

func doneKey(j *pb.Job) string { return donePrefix + j.Name[strings.LastIndexByte(j.Name, '/')+1:] }

// tell takes the job of something that was done into the catalog. The vault's
// write lock is held, so that the vault is not deleted meanwhile.
func (s *Server) tell(v *Vault, j *pb.Job) error {
	if _, err := s.jobs.Keep(j); err != nil {
		return fmt.Errorf("store job %s: %w", j.Name, err)
	}
	// It does no harm if it stays; and the call that it tells of was not cancelled.
	return v.Store.Apply(context.Background(), blockstore.Mutation{Key: doneKey(j), Delete: true})
}

// done is tell for who just did it: all of it is durable, so that is no failure
// of the call any more.
func (s *Server) done(v *Vault, d deed) {
	if err := s.tell(v, d.job); err != nil {
		s.log.Error("a job is listed later", "job", d.job.Name, "error", err)
	}
}

// told gives the job of an answer as it is listed: an answer that is given again
// was written before the job was.
func (s *Server) told(v *Vault, j *pb.Job) *pb.Job {
	listed, err := s.jobs.Get(j.GetName())
	if err != nil {
		s.tellAll(v)
		if listed, err = s.jobs.Get(j.GetName()); err != nil {
			return j
		}
	}
	return listed
}

// tellAll takes the jobs of all that was done in a vault into the catalog.
func (s *Server) tellAll(v *Vault) {
	release, err := v.use()
	if err != nil {
		return
	}
	defer release()
	v.write.Lock()
	defer v.write.Unlock()
	jobs := map[string]*pb.Job{}
	err = loadRecords(v.Store, donePrefix, jobs)
	for _, id := range sortedKeys(jobs) {
		if err == nil {
			err = s.tell(v, jobs[id])
		}
	}
	if err != nil {
		s.log.Error("jobs are listed later", "vault", v.Name.String(), "error", err)
	}
}
