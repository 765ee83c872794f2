# Uses Perl's Net::OpenSSH with web01: net-openssh.pl run|up|down. `run` exits with the status of the command.
use strict;
use warnings;
use Net::OpenSSH;

my $connection = Net::OpenSSH->new('web01');
die $connection->error if $connection->error;
if ($ARGV[0] eq 'run') {
    $connection->system('exit 7');
    exit $? >> 8;
}
my ($far, $near) = ('up-net-openssh', 'down-net-openssh');
my $done = $ARGV[0] eq 'up' ? $connection->scp_put('data', $far) : $connection->scp_get($far, $near);
die $connection->error unless $done;
