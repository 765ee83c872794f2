# Uses Ruby's net-ssh with web01: net-ssh.rb run|up|down. `run` exits with the status of the command.
require 'net/sftp'

status = 0
Net::SSH.start('web01') do |connection|
  case ARGV[0]
  when 'run'
    result = {}
    connection.exec!('exit 7', status: result)
    status = result[:exit_code]
  when 'up' then connection.sftp.upload!('data', 'up-net-ssh')
  else connection.sftp.download!('up-net-ssh', 'down-net-ssh')
  end
end
exit status
