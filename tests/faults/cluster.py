"""A Ray cluster of a head without CPUs and two nodes of one each, all on this machine.

It says its address, and then kills what it is told: ``node``, ``head``; at the end, all.
"""

import sys

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)]
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    killed = {"node": nodes[0], "head": cluster.head_node}
    for line in sys.stdin:
        killed[line.strip()].kill_all_processes(check_alive=False, allow_graceful=False)
        print("killed", flush=True)
    for node in [*nodes, cluster.head_node]:
        node.kill_all_processes(check_alive=False, allow_graceful=False)
